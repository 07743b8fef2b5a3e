"""Images shrunk once and kept as raw pixels on disk, so that later epochs decode nothing.

Every image has its place and its bytes from the start, so runs that fill one cache at once write the same bytes to the
same places: nothing is locked. A cache's name holds a digest of the files' sizes and times, of what the recipe needs,
and of the libraries' versions; where any of them changes, another one is made and the old one removed.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from glocal.data.source import ImageSource, Unreadable, fingerprint
from glocal.progress import Progress
from glocal.views.cache_files import FILLED, LAYOUT, amount, create, read_at, read_layout, write_at
from glocal.views.geometry import magnification, reduction, resize
from glocal.views.recipe import Crop

ANSWERS = "answers"
"""The folder beside the caches with what language models answered (glocal.language)."""


def cache_folder() -> Path | None:
    """Where caches lie: $GLOCAL_CACHE, else glocal/ in $XDG_CACHE_HOME or ~/.cache; None for a user without a home."""
    if named := os.environ.get("GLOCAL_CACHE"):
        return Path(named)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "glocal"
    except RuntimeError:  # nobody's home: a container's nameless user
        return None


def worth_caching(source: ImageSource, crops: Sequence[Crop]) -> tuple[bool, str]:
    """Whether a cache of these images would help and fit, and why, in a few words.

    It must fit half of the free disk, and half of the memory: beyond, reading pixels may cost more than decoding.
    """
    if fingerprint(source) is None:
        return False, "the images are not files"
    expected = _expected_bytes(source, crops)
    if expected is None:
        return False, "too few images can be read"
    folder = cache_folder()
    if folder is None or not os.access(_nearest(folder), os.W_OK | os.X_OK):
        return False, f"{folder or 'the home folder'} cannot be written to; name another one by $GLOCAL_CACHE"
    free = _free(folder)
    if expected > free / 2:
        return False, f"{amount(expected)} of pixels, {amount(free)} free in {folder}"
    memory = _memory()
    if expected > memory / 2:
        return False, f"{amount(expected)} of pixels, {amount(memory)} of memory"
    return True, f"about {amount(expected)} of pixels, decoded once"


FORMAT = 2  # to be raised when what is kept for the same image changes


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
        needs = sorted({(crop.size, crop.scale[0], crop.ratio, *(crop.native or ())) for crop in crops})
        same = _digest(FORMAT, place, needs)
        folder = folder or cache_folder()
        self.folder = (folder or Path()) / f"{same}-{_digest(state, PIL.__version__, torch.__version__, len(source))}"
        self.source, self._known = source, np.zeros(len(source), FILLED)  # whose checksums were looked at
        self._keep, said, layout = True, "", None
        try:
            if found is None or folder is None:  # without a fingerprint nothing tells these images from others
                raise OSError("there is no home folder" if found else "the images are not files")
            try:
                layout = read_layout(self.folder, len(source))
            except FileNotFoundError:
                pass
            except ValueError:
                shutil.rmtree(self.folder, ignore_errors=True)
                said = " (it was damaged and is made anew)"
            if layout is None:
                layout = _plan(source, crops)
                if layout["start"][-1] > _free(folder):
                    raise OSError(f"{amount(_free(folder))} free")
                about = {"data": place.replace("\0", " + "), "images": len(source), "crops": needs}
                create(self.folder, layout, about)
                for old in {*folder.glob(f"{same}-*")} - {self.folder}:
                    shutil.rmtree(old, ignore_errors=True)
        except OSError as error:
            self._keep, said = False, f", not kept: {error.strerror or error}"
        self._layout = _plan(source, crops) if layout is None else layout
        self.note = f"cache: {len(source):,} images, {amount(self._layout['start'][-1])} at {self.folder}{said}"

    def size(self, i: int) -> tuple[int, int]:
        """(width, height) of source image i; `Unreadable` if its header is broken."""
        width, height = self._layout["source"][i].tolist()
        if not width:
            self.source.open(i)  # says why
            raise Unreadable("it has changed since the cache was made")
        return width, height

    def read(self, i: int) -> tuple[Tensor, tuple[float, float]]:
        """Shrunk image i, (h, w, 3) uint8, and how many of its pixels one source pixel is, (x, y).

        `Unreadable` if it has to be decoded and cannot be.
        """
        if not self._keep:
            return self._make(i)
        width, height = self._layout["kept"][i].tolist()
        start = int(self._layout["start"][i])
        kept = torch.empty(3 * width * height, dtype=torch.uint8)
        pixels, filled = self.folder / "pixels.bin", self.folder / "filled.bin"
        entry = self._known[i : i + 1].copy()
        trusted = entry["sum"][0] != 0
        try:
            if not trusted:
                read_at(filled, i * FILLED.itemsize, entry.view(np.uint8))
            if entry["sum"][0]:
                read_at(pixels, start, kept.numpy())
                if trusted or _checksum(kept) == entry["sum"][0]:
                    self._known[i] = entry[0]
                    x, y = entry["shrink"][0].tolist()
                    return kept.view(height, width, 3), (x, y)
        except OSError:  # removed, by a run that found the files changed, or cut off
            self._keep = False
        made, shrink = self._make(i)
        try:
            if self._keep:
                entry = np.array((shrink, _checksum(made.view(-1))), dtype=FILLED)
                write_at(pixels, start, made.numpy())
                write_at(filled, i * FILLED.itemsize, entry)  # last: what it announces is there
        except OSError:  # the disk is full
            self._keep = False
        return made, shrink

    def fill(self, progress: Progress | None = None) -> None:
        """Keep all images at once, one after the other: of films no frame is then decoded twice."""
        for i in range(len(self.source) if self._keep else 0):
            with suppress(Unreadable):
                self.read(i)
            if progress:
                progress("decoding films", i + 1, len(self.source))

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

    layout = np.zeros(len(source) + 1, LAYOUT)
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
    for i in np.linspace(0, len(source) - 1, min(64, len(source))).astype(int).tolist():
        with suppress(Unreadable):
            sizes.append(3 * math.prod(_kept_size(crops, *source.open(i).size)))
    return int(np.mean(sizes) * len(source)) if sizes else None


def _checksum(flat: Tensor) -> np.uint64:
    """Of bytes (n,); never 0."""
    values = flat.numpy()
    whole = len(values) // 8 * 8
    total = int(values[:whole].view(np.uint64).sum(dtype=np.uint64)) + int(values[whole:].sum(dtype=np.uint64))
    return np.uint64(total % 2**64 or 1)


def _digest(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def _nearest(folder: Path) -> Path:
    """The folder, or the first above it that exists."""
    while not os.path.exists(folder):  # unlike Path's, also False where one may not look
        folder = folder.parent
    return folder


def _free(folder: Path) -> int:
    return shutil.disk_usage(_nearest(folder)).free


def _memory() -> float:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError):  # Windows
        return math.inf
