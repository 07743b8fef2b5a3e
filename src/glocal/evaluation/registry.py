"""Tasks by name (`glocal.plugins`), and what makes one."""

import math
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from glocal.errors import UsageError
from glocal.plugins import GUIDE, find, names


@dataclass(frozen=True)
class Task:
    """A way to examine a frozen encoder.

    What it declares is all that tables, reports and verdicts know of it. Where it names scores, only those are shown;
    other numbers that it returns are settings. "images" among them says how many test images were looked at, where
    that is not all.

    Attributes:
        run: (context, **options) -> JSON-serialisable scores.
        needs: what the images must come with, attributes of the source: {"labels"}, {"masks"}; empty: images alone.
        on_request: run only where it is asked for by name, never as one of all that the data allows.
        squares: makes its own square images, and has nothing to say of photographs in their own shapes.
        title: the task in two words.
        main: the score that it is judged by; None where none says good or bad.
        higher_is_better: of the main score.
        words: score -> what it is, in words.
        shares: scores that are fractions, by name or pattern ("fgsm_*") -> of what. They are printed in percent; those
            of "images" get a confidence interval.
    """

    run: Callable[..., dict[str, Any]]
    needs: frozenset[str]
    on_request: bool = False
    squares: bool = False
    title: str = ""
    main: str | None = None
    higher_is_better: bool = True
    words: Mapping[str, str] = field(default_factory=dict)
    shares: Mapping[str, str] = field(default_factory=dict)

    @property
    def what(self) -> str:
        """One line: the first of the function's docstring."""
        return (self.run.__doc__ or "").strip().partition("\n")[0].rstrip(".")

    def __call__(self, context: Any, **options: Any) -> dict[str, Any]:
        if isinstance(found := self.run(context, **options), dict):
            return found
        raise UsageError(f"`{self.run.__name__}` returns {type(found).__name__}, not a dict of scores ({GUIDE})")

    def scores(self, found: Mapping[str, Any]) -> dict[str, float]:
        """The scores in what the task returned: finite, no whole numbers (those are settings), the main one first."""
        numbers = {name: value for name, value in found.items() if isinstance(value, float) and math.isfinite(value)}
        named = self.words or self.shares
        kept = [name for name in numbers if not named or name in (self.main, *self.words) or self.share_of(name)]
        return {name: numbers[name] for name in sorted(kept, key=lambda name: name != self.main)}

    def share_of(self, name: str) -> str | None:
        """Of what a score is a fraction, or None where it is not one."""
        return next((what for pattern, what in self.shares.items() if fnmatchcase(name, pattern)), None)

    def in_words(self, name: str) -> str:
        """What a score is."""
        return self.words.get(name, name.replace("_", " "))


def task(*, needs: Collection[str] = (), **declared: Any) -> Callable[[Callable[..., dict[str, Any]]], Task]:
    """Make a function a task, saying what it needs of the data and, as `Task` does, how its scores are read."""
    if isinstance(needs, str):
        raise TypeError(f'needs={needs!r} is text; give a set: needs={{"{needs}"}}')
    return lambda run: Task(run, frozenset(needs), **declared)


def all_tasks() -> dict[str, Task]:
    """Every registered task by name, sorted."""
    return {name: find_task(name) for name in names("tasks")}


def find_task(name: str) -> Task:
    """The task registered as `name`, or at "module:function"; a `UsageError` if there is none, or it is no `Task`."""
    found = find("tasks", name)
    if not isinstance(found, Task):
        raise UsageError(f"task '{name}': `{getattr(found, '__name__', found)}` lacks @task(needs=...) ({GUIDE})")
    return found


def declared(name: str) -> Task:
    """What is known of the scores kept under a name, for those who only read them: the task with a title.

    One that is not registered here declares nothing. Nothing is imported because a file of scores names it.
    """
    module, colon, function = name.partition(":")
    try:
        found = find_task(name) if not colon or module in sys.modules else Task(dict, frozenset())
    except UsageError:
        found = Task(dict, frozenset())
    return replace(found, title=found.title or (function or name).replace("_", " ").capitalize())
