"""One rule for what is added to Glocal, by us or by others: methods, backbones, sources, tasks, heads, generators,
commands.

Each is found by the name under which a package registers it, in the entry-point group `glocal.GROUP`, or by its place,
`module:attribute`, where the module is installed or lies in the current folder. Installed packages are trusted, and so
is a place that a person types or passes; one that is read from a file only with that person's consent.
"""

import importlib
import os
import re
import shlex
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

from glocal.errors import UsageError, did_you_mean

GROUPS = ("methods", "backbones", "sources", "tasks", "heads", "generators", "commands")
GUIDE = "see docs/architecture.md"
"""Where the contract of each stands."""
_CONSENT: ContextVar[bool] = ContextVar("consent", default=False)


def names(group: str) -> list[str]:
    """The registered names of one of the `GROUPS`, sorted. Nothing is imported."""
    return sorted({point.name for point in _registered(group)})


def split(group: str, text: str) -> tuple[str, str]:
    """A plug-in's name and what follows it: "parts:n=9" -> ("parts", "n=9"), "mine:Cells:9" -> ("mine:Cells", "9").

    The name is what stands before the first colon where that is registered, else `module:attribute`.
    """
    name, _, rest = text.partition(":")
    if rest and name not in names(group):
        attribute, _, rest = rest.partition(":")
        name = f"{name}:{attribute}"
    return name, rest


def find(group: str, name: str) -> Any:
    """What is registered as `name` in one of the `GROUPS`, or stands at the place "module:attribute"."""
    said, points = f"{group.removesuffix('s')} '{name}'", [point for point in _registered(group) if point.name == name]
    packages = [_package(point.dist) for point in points if point.dist]
    if len(points) > 1:
        raise UsageError(f"{said} is registered by several packages, {' and '.join(packages)}; uninstall all but one")
    if points:
        return _load(f"{said} of the package {packages[0]}" if packages else said, points[0].value, "")
    hint = did_you_mean(name.partition(":")[0], names(group))
    if not all(word.isidentifier() for word in re.split("[.:]", name)) or name.count(":") != 1:
        known = ", ".join(names(group))
        raise UsageError(f"unknown {said}{hint}; there are {known}, and any other as module:attribute")
    return _load(said, name, hint)


@contextmanager
def consent(trust_code: bool) -> Iterator[None]:
    """In this context `refuse_untrusted` refuses nothing, if the person trusts the code."""
    before = _CONSENT.set(trust_code)
    try:
        yield
    finally:
        _CONSENT.reset(before)


def refuse_untrusted(names: Iterable[str], *, origin: str | Path, trust_code: bool, command: str) -> None:
    """Refuse the places "module:attribute" among names that were read from a file, unless the person trusts it.

    Args:
        names: as the file has them; registered ones pass.
        origin: the file.
        trust_code: the person's consent.
        command: what to paste to give it. Under `glocal` it is the very line that was typed, with --trust-code.
    """
    code = [name for name in names if ":" in name]
    if not code or trust_code or _CONSENT.get():
        return
    program = Path(sys.argv[0])
    if program.stem == "glocal" or program.parts[-2:] == ("glocal", "__main__.py"):
        command = shlex.join(["glocal", *sys.argv[1:], "--trust-code"])
    raise UsageError(f"{origin} would run code that is not registered: {', '.join(code)}; if you trust it: {command}")


_package = cache(lambda distribution: distribution.name)  # which reads it from disk each time


@cache
def _registered(group: str) -> list[EntryPoint]:
    return list(entry_points(group=f"glocal.{group}"))


def _load(said: str, place: str, hint: str) -> Any:
    """The attribute at "module:attribute"; `said` begins every complaint."""
    module, _, path = place.partition(":")
    try:
        found: Any = _import(module)
    except UsageError:
        raise
    except Exception as error:
        if _is_missing(module, error):
            raise UsageError(f"{said}: {module} is neither an installed module nor one in this folder{hint}") from error
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        at = f" ({frames[-1].filename}, line {frames[-1].lineno})" if frames[-1].filename != __file__ else ""
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UsageError(f"{said}: {module} is there, but its import fails: {reason}{at}") from error
    file = getattr(found, "__file__", None)
    for word in path.split("."):
        if not hasattr(found, word):
            near = did_you_mean(word, dir(found))
            raise UsageError(f"{said}: {module}{f' ({file})' if file else ''} has no '{word}'{near}")
        found = getattr(found, word)
    return found


def _import(module: str) -> ModuleType:
    """Import a module, from the current folder if it is nowhere else."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if not _is_missing(module, error):
            raise
    before = list(sys.path)
    sys.path.append(os.getcwd())  # last: it hides nothing; it stays for imports inside functions and for workers
    try:
        importlib.invalidate_caches()  # the file may be new
        return importlib.import_module(module)
    except BaseException:
        sys.path[:] = before
        raise


def _is_missing(module: str, error: Exception) -> bool:
    """Whether this module, or a package that it is in, is what could not be found."""
    return isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}.")
