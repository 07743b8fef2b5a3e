"""One rule for what others add: by entry point, or by `module:name`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib.metadata import entry_points
from typing import Any

from glocal.errors import UsageError, did_you_mean


def names(group: str) -> list[str]:
    """The registered names, sorted; nothing is imported."""
    return sorted({point.name for point in entry_points(group=f"glocal.{group}")})


def find(group: str, name: str) -> Any:
    """What is registered under a name.

    Raises:
        UsageError: for an unknown one, with the nearest.
    """
    for point in entry_points(group=f"glocal.{group}", name=name):
        return point.load()
    raise UsageError(f"no {group.removesuffix('s')} '{name}'{did_you_mean(name, names(group))}")


def refuse_untrusted(names: Iterable[str], *, origin: str, trust_code: bool, command: str) -> None:
    """Refuse `module:name` read from a file, unless its code is trusted.

    Raises:
        UsageError: with the command to paste.
    """
    for name in names:
        if ":" in name and not trust_code:
            raise UsageError(f"{origin} names '{name}', code of its own; if you trust it: {command}")
