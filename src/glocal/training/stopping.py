"""How training ends before its time."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class TrainingStopped(Exception):
    """Training ended before its time: diverged, collapsed or interrupted. The message says why and what to do."""


class Interrupted(TrainingStopped):
    """Ended by Ctrl-C or a termination signal, after saving."""


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and termination into a question the loop asks after each step; a second Ctrl-C stops at once."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    names = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = [signal.signal(name, ask) for name in names]
    except ValueError:  # not the main thread: signals are the caller's business
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for name, handler in zip(names, previous, strict=True):
            signal.signal(name, handler)
