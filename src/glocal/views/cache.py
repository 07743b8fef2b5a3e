"""Images shrunk once and kept as raw pixels on disk, so that later epochs decode nothing.

A cache is a folder of three files: `layout.npy` (where each image lies and how large it is, known from the headers
before any decode), `pixels.bin` (raw uint8, memory-mapped) and `filled.bin` (what is there already, with a checksum).
Every image has its place and its bytes from the start, so runs that fill one cache at once write the same bytes to the
same places: nothing is locked. The folder's name holds a digest of the files' sizes and times, of what the recipe
needs, and of the libraries' versions; where any of them changes, another folder is made and the old one removed.
"""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from glocal.data.source import ImageSource, Unreadable, fingerprint
from glocal.views.geometry import magnification, reduction, resize
from glocal.views.recipe import Crop

_LAYOUT = np.dtype([("start", "<i8"), ("source", "<i4", 2), ("kept", "<i4", 2)])  # sizes are (width, height)
_FILLED = np.dtype([("shrink", "<f8", 2), ("sum", "<u8")])  # sum 0: not there
_SAMPLED = 64


def cache_folder() -> Path:
    """Where caches lie: $GLOCAL_CACHE, else glocal/ in $XDG_CACHE_HOME, ~/.cache or, without a home, in /tmp."""
    if named := os.environ.get("GLOCAL_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glocal"
    except RuntimeError:  # nobody's home: a container's nameless user
        return Path(tempfile.gettempdir()) / "glocal"


def worth_caching(source: ImageSource, crops: Sequence[Crop]) -> tuple[bool, str]:
    """Whether a cache of these images would help and fit, and why, in a few words.

    It must fit half of the free disk, and half of the memory: beyond that, reading raw pixels may cost more than
    decoding.
    """
    if fingerprint(source) is None:
        return False, "the images are not files"
    expected = _expected_bytes(source, crops)
    if expected is None:
        return False, "too few images can be read"
    free = _free(cache_folder())
    if expected > free / 2:
        return False, f"{_amount(expected)} of pixels, {_amount(free)} free in {cache_folder()}"
    memory = _memory()
    if expected > memory / 2:
        return False, f"{_amount(expected)} of pixels, {_amount(memory)} of memory"
    return True, f"about {_amount(expected)} of pixels, decoded once"


FORMAT = 1
"""To be raised when what is kept for the same image changes."""


class PixelCache:
    """The images of a source, each no larger than the most magnified crop of a recipe can ever need.

    `read` gives the same pixels whether they are kept already or made now; it works, slower, where nothing can be kept
    (no space, no right to write). It may be shared by any number of threads, processes and runs.

    Args:
        source: images with a fingerprint (see `glocal.data.source`).
        crops: the recipe's views.
        folder: where caches lie; None: `cache_folder()`.

    Attributes:
        note: one line for the person: how many images and bytes, where, and what was wrong.
    """

    def __init__(self, source: ImageSource, crops: Sequence[Crop], folder: Path | None = None):
        found = fingerprint(source)
        place, state = found or ("", "")
        needs = sorted({(crop.size, crop.scale[0], crop.ratio) for crop in crops})
        same = _digest(FORMAT, place, needs)
        folder = cache_folder() if folder is None else Path(folder)
        self.folder = folder / f"{same}-{_digest(state, PIL.__version__, torch.__version__, len(source))}"
        self.source = source
        self._opened: tuple[int, Tensor, np.ndarray, np.ndarray] | None = None
        self._keep = found is not None
        problem = "" if self._keep else ", not kept: the images are not files"
        try:
            # without a fingerprint nothing tells these images from others
            self._layout = _checked_layout(self.folder, len(source)) if self._keep else _plan(source, crops)
        except FileNotFoundError:
            self._layout = _plan(source, crops)
        except (OSError, ValueError):
            shutil.rmtree(self.folder, ignore_errors=True)
            self._layout, problem = _plan(source, crops), " (it was damaged and is made anew)"
        total = int(self._layout["start"][-1])
        try:
            if self._keep and not (self.folder / "layout.npy").exists():
                if total > _free(folder):
                    raise OSError(f"{_amount(_free(folder))} free")
                _create(self.folder, self._layout)
                for old in folder.glob(f"{same}-*"):
                    if old != self.folder:
                        shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            self._keep, problem = False, f", not kept: {error.strerror or error}"
        self.note = f"cache: {len(source):,} images, {_amount(total)} at {self.folder}{problem}"

    def size(self, i: int) -> tuple[int, int]:
        """(width, height) of source image i.

        Raises:
            Unreadable: if its header is broken.
        """
        width, height = self._layout["source"][i].tolist()
        if not width:
            self.source.open(i)  # says why
            raise Unreadable("it has changed since the cache was made")
        return width, height

    def read(self, i: int) -> tuple[Tensor, tuple[float, float]]:
        """Shrunk image i, (h, w, 3) uint8, and how many of its pixels one source pixel is, (x, y).

        Raises:
            Unreadable: if it has to be decoded and cannot be.
        """
        if not self._keep:
            return self._make(i)
        try:
            pixels, filled, trusted = self._files()
        except (OSError, ValueError):  # removed, by a run that found the files changed
            self._keep = False
            return self._make(i)
        width, height = self._layout["kept"][i].tolist()
        start = int(self._layout["start"][i])
        entry = filled[i]
        if entry["sum"]:
            kept = pixels[start : start + 3 * width * height]
            if trusted[i] or _checksum(kept) == entry["sum"]:
                trusted[i] = True
                x, y = entry["shrink"].tolist()
                return kept.view(height, width, 3), (x, y)
        made, shrink = self._make(i)
        try:
            entry = np.array((shrink, _checksum(made.view(-1))), dtype=_FILLED)
            _write_at(self.folder / "pixels.bin", start, made.numpy())
            _write_at(self.folder / "filled.bin", i * _FILLED.itemsize, entry)  # last: what it announces is there
        except OSError:  # the disk is full
            self._keep = False
        return made, shrink

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_opened": None}  # a worker maps the files itself

    def _files(self) -> tuple[Tensor, np.ndarray, np.ndarray]:
        if self._opened is None or self._opened[0] != os.getpid():
            raw = np.memmap(self.folder / "pixels.bin", np.uint8, "r")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # nobody writes to it
                pixels = torch.from_numpy(raw)
            filled = np.memmap(self.folder / "filled.bin", _FILLED, "r")
            self._opened = os.getpid(), pixels, filled, np.zeros(len(self.source), bool)
        return self._opened[1:]

    def _make(self, i: int) -> tuple[Tensor, tuple[float, float]]:
        image = self.source.open(i)
        if image.size != self.size(i):
            raise Unreadable("it has changed since the cache was made")
        width, height = self._layout["kept"][i].tolist()
        # a hair over (width − 1) / W: sides are rounded up
        scale = 1e-9 + max((width - 1) / image.size[0], (height - 1) / image.size[1])
        pixels = torch.from_numpy(image.decode(scale))
        decoded = pixels.shape[1], pixels.shape[0]
        shrink = reduction(image.size, decoded)
        if decoded != (width, height):
            shrink = shrink[0] * width / decoded[0], shrink[1] * height / decoded[1]
            pixels = resize(pixels, height, width).contiguous()
        return pixels, shrink


def _plan(source: ImageSource, crops: Sequence[Crop]) -> np.ndarray:
    """(N + 1,) where each image will lie; the last entry is the end."""

    def size(i: int) -> tuple[int, int]:
        try:
            return source.open(i).size
        except Unreadable:
            return 0, 0

    layout = np.zeros(len(source) + 1, _LAYOUT)
    with ThreadPoolExecutor(8) as pool:
        for entry, image in zip(layout, pool.map(size, range(len(source)), chunksize=16), strict=False):
            entry["source"], entry["kept"] = image, _kept_size(crops, *image)
    bytes_ = 3 * layout["kept"].astype(np.int64).prod(1)
    layout["start"][1:] = np.cumsum(-(-bytes_ // 64) * 64)[:-1]
    return layout


def _kept_size(crops: Sequence[Crop], width: int, height: int) -> tuple[int, int]:
    if not width:
        return 0, 0
    scale = magnification(crops, width, height)
    return math.ceil(width * scale - 1e-9), math.ceil(height * scale - 1e-9)


def _expected_bytes(source: ImageSource, crops: Sequence[Crop]) -> int | None:
    """From the headers of some of the images."""
    sizes = []
    for i in np.linspace(0, len(source) - 1, min(_SAMPLED, len(source))).astype(int).tolist():
        with suppress(Unreadable):
            sizes.append(3 * math.prod(_kept_size(crops, *source.open(i).size)))
    return int(np.mean(sizes) * len(source)) if sizes else None


def _create(folder: Path, layout: np.ndarray) -> None:
    """Make the three files, whole or not at all."""
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        for name, size in (("pixels.bin", int(layout["start"][-1])), ("filled.bin", len(layout) * _FILLED.itemsize)):
            with open(partial / name, "wb") as file:
                file.truncate(max(1, size))
        np.save(partial / "layout.npy", layout)
        os.rename(partial, folder)
    except OSError:
        shutil.rmtree(partial, ignore_errors=True)
        if not (folder / "layout.npy").exists():  # else another run was faster, with the same files
            raise


def _checked_layout(folder: Path, images: int) -> np.ndarray:
    """The layout of an existing cache.

    Raises:
        FileNotFoundError: if there is none.
        OSError, ValueError: if it is damaged.
    """
    if not folder.exists():
        raise FileNotFoundError(folder)
    try:
        layout = np.load(folder / "layout.npy", allow_pickle=False)
        sizes = [(folder / name).stat().st_size for name in ("pixels.bin", "filled.bin")]
    except FileNotFoundError as error:
        raise ValueError("incomplete") from error
    except EOFError as error:
        raise ValueError("empty") from error
    expected = [max(1, int(layout["start"][-1])), (images + 1) * _FILLED.itemsize]
    if layout.dtype != _LAYOUT or len(layout) != images + 1 or sizes != expected:
        raise ValueError("not of this collection")
    return layout


def _checksum(flat: Tensor) -> np.uint64:
    """Of bytes (n,); never 0."""
    values = flat.numpy()
    whole = len(values) // 8 * 8
    total = values[:whole].view(np.uint64).sum(dtype=np.uint64) + values[whole:].sum(dtype=np.uint64)
    return np.uint64(total or 1)


def _write_at(path: Path, offset: int, values: np.ndarray) -> None:
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(values.tobytes())


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _free(folder: Path) -> int:
    while not os.path.exists(folder):  # unlike Path's, also False where one may not look
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _memory() -> float:
    names = getattr(os, "sysconf_names", {})
    if "SC_PHYS_PAGES" not in names:  # Windows
        return math.inf
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _amount(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
