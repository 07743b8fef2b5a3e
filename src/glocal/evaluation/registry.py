"""Tasks by name. Ours and third-party ones register alike: a function under the entry-point group `glocal.tasks`."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any, Literal

from glocal.errors import UsageError

Need = Literal["images", "labels", "masks"]


@dataclass(frozen=True)
class Task:
    """A way to examine a frozen encoder: `task(context, **options)` gives JSON-serialisable scores.

    Attributes:
        run: (context, **options) -> scores.
        needs: "labels" or "masks" beside the images, or "images" alone.
        on_request: run only where it is asked for by name, never as one of all that the data allows.
    """

    run: Callable[..., dict[str, Any]]
    needs: Need
    on_request: bool = False

    @property
    def what(self) -> str:
        """One line: the first of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    def __call__(self, context: Any, **options: Any) -> dict[str, Any]:
        return self.run(context, **options)


def task(*, needs: Need, on_request: bool = False) -> Callable[[Callable[..., dict[str, Any]]], Task]:
    """Make a function a task, saying what it needs of the data."""
    return lambda run: Task(run, needs, on_request)


def all_tasks() -> dict[str, Task]:
    """Every registered task by name, sorted."""
    return {point.name: point.load() for point in sorted(entry_points(group="glocal.tasks"), key=lambda p: p.name)}


def find_task(name: str) -> Task:
    """The task registered as `name`.

    Raises:
        UsageError: for a name nobody registered, with the nearest one.
    """
    points = {point.name: point for point in entry_points(group="glocal.tasks")}
    if name in points:
        return points[name].load()
    near = difflib.get_close_matches(name, points, n=1, cutoff=0.4)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise UsageError(f"unknown task '{name}'{hint} (there are: {', '.join(sorted(points))})")
