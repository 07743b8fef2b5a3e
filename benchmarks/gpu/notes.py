"""What a step has checked: a line of JSON each, so that one that is killed has said what it knew."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CPU = "without a GPU it ran on the CPU, which shows that it runs and no more"


class Skipped(Exception):
    """A check that cannot be made here; the message says why."""


class Notes:
    """Where a step writes, and what it may know.

    Args:
        file: of the lines.
        device: "cuda" or "cpu".
        folder: for whatever the step makes; holds `photos`.
    """

    def __init__(self, file: Path, device: str, folder: Path) -> None:
        self.file, self.device, self.folder = file, device, folder
        self.cuda = device == "cuda"

    @contextmanager
    def check(self, name: str, *, needs_cuda: bool = False) -> Iterator[dict[str, Any]]:
        """One check, whose numbers the body puts into the dictionary that it is given.

        It fails where the body raises, and nothing else does. `needs_cuda`: on a CPU it is tried, and named as skipped.
        """
        numbers: dict[str, Any] = {}
        started = time.monotonic()
        outcome, why = ("skipped", CPU) if needs_cuda and not self.cuda else ("passed", "")
        try:
            yield numbers
        except Skipped as reason:
            outcome, why = "skipped", str(reason)
        except Exception as error:
            traceback.print_exc()
            outcome, why = "failed", f"{type(error).__name__}: {error}"[:600]
        line = {"check": name, "outcome": outcome, "why": why, "seconds": round(time.monotonic() - started, 1)}
        with self.file.open("a") as file:
            file.write(json.dumps({**line, "numbers": numbers}) + "\n")
        print(f"  {outcome}: {name} {_short(numbers)} {why}".rstrip(), flush=True)

    def skip(self, name: str, why: str) -> None:
        """Name what cannot be tried here at all."""
        with self.check(name):
            raise Skipped(why)


def read(file: Path) -> list[dict[str, Any]]:
    """All checks that a step has written."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def within(found: dict[str, Any], limit: float, **distance: float) -> None:
    """Note a distance by its name, and refuse one above the limit, or that is no number."""
    ((name, value),) = distance.items()
    found[name] = float(f"{value:.3g}")
    if not value <= limit:
        raise AssertionError(f"{name} is {value:.3g}, more than {limit:g}")


def _short(numbers: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in numbers.items() if not isinstance(value, dict | list))
