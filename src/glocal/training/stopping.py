"""How training ends before its time."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist

from glocal.distributed import patient_group
from glocal.views.dataset import STOPPING


class TrainingStopped(Exception):
    """Training ended before its time: diverged, collapsed or interrupted. The message says why and what to do."""

    code = 1


class Harmed(TrainingStopped):
    """Training spoilt the encoder: it diverged, collapsed or, with a guard, fell below what it started from."""


class Interrupted(TrainingStopped):
    """Ended by a signal, after saving. `code` is the exit code of a command that ends so."""

    def __init__(self, message: str, signum: int) -> None:
        super().__init__(message)
        self.code = 128 + signum


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Turn signals into a question that the loop asks after each step: 0, or the signal's number.

    Ctrl-C, the end of a batch job (SIGTERM), a closed terminal (SIGHUP), SLURM's warning before it requeues (SIGUSR1).
    A second Ctrl-C stops at once.
    """
    asked = 0

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked == signum == signal.SIGINT:
            raise KeyboardInterrupt
        if not asked and os.environ.get("LOCAL_RANK", "0") == "0":
            os.write(2, b"\nglocal: finishing the step, saving\n")
        asked = asked or signum

    try:
        previous = [signal.signal(name, ask) for name in STOPPING]
    except ValueError:  # not the main thread: signals are the caller's business
        yield lambda: 0
        return
    try:
        yield lambda: asked
    finally:
        for name, handler in zip(STOPPING, previous, strict=True):
            signal.signal(name, handler)


class Agreement:
    """Numbers of which all processes learn the largest, without waiting for each other unless they are to.

    What a process says in one step, all know after the next: the result of a step's exchange is fetched a step later.
    """

    def __init__(self, world_size: int) -> None:
        self.group: Any = patient_group() if world_size > 1 else None
        self.pending: tuple[Any, torch.Tensor] | None = None

    def __call__(self, *mine: int, wait: bool = False) -> tuple[int, ...]:
        """Say something in this step; hear what was said in the last, or wait to hear it of this one."""
        if self.group is None:
            return mine
        if wait:
            dist.all_reduce(numbers := torch.tensor(mine), dist.ReduceOp.MAX, group=self.group)
            return tuple(numbers.tolist())
        heard = (0,) * len(mine)
        if self.pending:
            work, numbers = self.pending
            work.wait()
            heard = tuple(numbers.tolist())
        numbers = torch.tensor(mine)
        self.pending = dist.all_reduce(numbers, dist.ReduceOp.MAX, group=self.group, async_op=True), numbers
        return heard
