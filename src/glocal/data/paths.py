"""Finding what a person pointed at, and saying what is there when it is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from glocal.errors import UsageError, did_you_mean


def existing(path: Path) -> Path:
    """`path` itself, if there is something there.

    Raises:
        UsageError: naming the first missing part of the path and the nearest name beside it.
    """
    if path.exists():
        return path
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    siblings = [child.name for child in missing.parent.iterdir()] if missing.parent.is_dir() else []
    where = "" if missing == path else f": {missing} does not exist"
    hint = did_you_mean(missing.name, siblings)
    raise UsageError(f"no data at {path}{where}{hint}")


def state_of(folder: Path, files: Iterable[str]) -> str:
    """A digest of the names, sizes and times of files below a folder."""
    digest = hashlib.sha256()
    for file in files:
        try:
            found = (folder / file).stat()
            digest.update(f"{file}\0{found.st_size}\0{found.st_mtime_ns}\0".encode(errors="surrogateescape"))
        except OSError:
            digest.update(f"{file}\0missing\0".encode(errors="surrogateescape"))
    return digest.hexdigest()
