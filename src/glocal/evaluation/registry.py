"""Tasks by name (`glocal.plugins`), and what makes one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from glocal.errors import UsageError
from glocal.plugins import GUIDE, find, names

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
    return {name: find_task(name) for name in names("tasks")}


def find_task(name: str) -> Task:
    """The task registered as `name`, or that at "module:function".

    Raises:
        UsageError: if there is none; to its author, if it is not a `Task`.
    """
    found = find("tasks", name)
    if not isinstance(found, Task):
        raise UsageError(f"task '{name}': `{getattr(found, '__name__', found)}` lacks @task(needs=...) ({GUIDE})")
    return found
