"""Finding what a person pointed at, saying what is there when it is not, and names that can always be written."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from glocal.errors import UsageError, did_you_mean


def existing(path: Path) -> Path:
    """`path` itself, if there is something there.

    Raises:
        UsageError: naming the first missing part of the path and the nearest name beside it.
    """
    if os.path.exists(path):
        return path
    missing = path
    while not os.path.exists(missing.parent):
        missing = missing.parent
    try:
        siblings = os.listdir(missing.parent)
    except OSError:  # a file, or closed to us
        siblings = []
    where = "" if missing == path else f": {missing} does not exist"
    raise UsageError(f"no data at {path}{where}{did_you_mean(missing.name, siblings)}")


def shown(name: str) -> str:
    """A file's name as valid text of one line: bytes that are no UTF-8, and control characters, as `\\xff`."""
    text = os.fsencode(name).decode("utf-8", "backslashreplace")
    return re.sub("[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def sizes_and_times(folder: Path, files: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Bytes and time (ns) of each of some files below a folder; (-1, -1) where there is none."""
    for file in files:
        try:
            found = os.stat(os.path.join(folder, file))
            yield found.st_size, found.st_mtime_ns
        except OSError:
            yield -1, -1


def state_of(folder: Path, files: Sequence[str], window: tuple[float, float] | None = None) -> str:
    """A digest of the names, sizes and times of files below a folder, and of how they are read."""
    digest = hashlib.sha256(repr(window).encode())
    for file, (size, time) in zip(files, sizes_and_times(folder, files), strict=True):
        digest.update(f"{file}\0{size}\0{time}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
