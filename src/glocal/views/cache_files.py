"""The files of a pixel cache, for the eyes of one user: photographs are private.

`layout.npy` says where each image lies and how large it is, known from the headers before any decode; `pixels.bin` has
raw uint8, `filled.bin` what is there already, with a checksum; `about.json` is for `glocal cache`. They are read, not
mapped: a mapped file that another program cuts off kills its reader.
"""

import json
import os
import re
import shutil
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

LAYOUT = np.dtype([("start", "<i8"), ("source", "<i4", 2), ("kept", "<i4", 2)])  # sizes are (width, height)
FILLED = np.dtype([("shrink", "<f8", 2), ("sum", "<u8")])  # sum 0: not there

_NAMES = re.compile(r"[0-9a-f]{16}-[0-9a-f]{16}(\.\d+\.partial)?|\.partial-\w+")


def create(folder: Path, layout: np.ndarray, about: dict) -> None:
    """Make the files of a cache: `layout` (N + 1,) `LAYOUT`, whose last entry is the end; `about` as in `KeptCache`."""
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))  # its mode is 0700
    try:
        for name, size in (("pixels.bin", int(layout["start"][-1])), ("filled.bin", len(layout) * FILLED.itemsize)):
            with open(partial / name, "xb", opener=_private) as file:
                file.truncate(max(1, size))
        with open(partial / "about.json", "x", opener=_private) as text:
            json.dump(about, text)
        with open(partial / "layout.npy", "xb", opener=_private) as file:
            np.save(file, layout)
        os.rename(partial, folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not (folder / "layout.npy").exists():  # else another run was faster, with the same files
            raise


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def read_layout(folder: Path, images: int) -> np.ndarray:
    """The layout of an existing cache.

    Raises:
        FileNotFoundError, ValueError: if there is none, or it is damaged.
        PermissionError: if it is another user's, who could show us anything.
    """
    found = os.lstat(folder)
    if hasattr(os, "getuid") and found.st_uid != os.getuid():
        raise PermissionError("it belongs to another user")
    os.chmod(folder, 0o700)
    try:
        layout = np.load(folder / "layout.npy", allow_pickle=False)
        sizes = [(folder / name).stat().st_size for name in ("pixels.bin", "filled.bin")]
    except (EOFError, OSError) as error:
        raise ValueError("incomplete") from error
    expected = [max(1, int(layout["start"][-1])), (images + 1) * FILLED.itemsize]
    if layout.dtype != LAYOUT or len(layout) != images + 1 or sizes != expected:
        raise ValueError("not of this collection")
    return layout


def read_at(path: Path, offset: int, out: np.ndarray) -> None:
    """Fill `out` (n,) uint8 with the bytes at a place of a file; `OSError` if it ends before."""
    with open(path, "rb", buffering=0) as file:
        file.seek(offset)
        if (file.readinto(out.data) or 0) < out.nbytes:
            raise OSError(f"{path} is cut off")


def write_at(path: Path, offset: int, values: np.ndarray) -> None:
    """Write bytes at a place of a file; `OSError` if it ends before: to make it longer would leave a hole of zeros."""
    with open(path, "r+b") as file:
        if os.fstat(file.fileno()).st_size < offset + values.nbytes:
            raise OSError(f"{path} is cut off")
        file.seek(offset)
        file.write(values.tobytes())


@dataclass(frozen=True)
class KeptCache:
    """A cache on disk."""

    folder: Path
    size: int  # bytes
    about: dict  # {"data": ..., "images": ..., "crops": [(size, smallest scale, ratio), ...]}; {} if not known


def kept_caches(folder: Path) -> list[KeptCache]:
    """All caches in a folder, whole ones and what was left by a run that was killed while making one."""
    found = []
    for cache in sorted(path for path in folder.glob("*/") if _NAMES.fullmatch(path.name)):
        files = [file for name in ("layout.npy", "pixels.bin", "filled.bin") if (file := cache / name).is_file()]
        about: dict = {}
        with suppress(OSError, ValueError, RecursionError):
            about = json.loads((cache / "about.json").read_text())
        if files:
            found.append(KeptCache(cache, sum(512 * file.stat().st_blocks for file in files), about))
    return found


def amount(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
