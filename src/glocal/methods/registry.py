"""Methods by name. Ours and third-party ones register alike: a class under the entry-point group `glocal.methods`.

One that is not registered, an experiment's, is named by where it is: "mypackage.file:Class".
"""

from __future__ import annotations

import difflib
import inspect
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from glocal.errors import UsageError


def method_names() -> list[str]:
    """The registered methods' names, sorted."""
    return sorted({point.name for point in entry_points(group="glocal.methods")})


def method_class(name: str) -> Any:
    """The class registered as `name`, or that at "module:Class".

    Raises:
        UsageError: for a name nobody registered, with the nearest one, or a place where there is no class.
    """
    if ":" in name:
        try:
            return EntryPoint(name, name, "glocal.methods").load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"no method at '{name}', which should be an importable module:Class ({error})") from error
    for point in entry_points(group="glocal.methods"):
        if point.name == name:
            return point.load()
    names = method_names()
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.4)
    raise UsageError(
        f"unknown method '{name}'{f'; did you mean {near[0]}?' if near else ''} (there are: {', '.join(names)})"
    )


def method_options(cls: Any) -> dict[str, inspect.Parameter]:
    """A method's options: its constructor's keyword parameters."""
    return {
        name: parameter
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def resolve_options(cls: Any, preset: str, batch: int, given: dict[str, Any]) -> dict[str, Any]:
    """Every option of a method: its defaults, under the preset's for a batch size, under those given.

    Raises:
        UsageError: for an unknown option or preset, with the nearest name.
    """
    known = method_options(cls)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            raise UsageError(f"{cls.title} has no option '{name}'{f'; did you mean {near[0]}?' if near else ''}")
    if preset not in cls.presets:
        raise UsageError(f"{cls.title} has no preset '{preset}' (there are: {', '.join(cls.presets)})")
    defaults = {name: parameter.default for name, parameter in known.items()}
    return {**defaults, **cls.presets[preset](batch), **given}
