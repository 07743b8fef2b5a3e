"""What a loader's worker does, from sample ids to one batch of views; what it hears and how it ends."""

import ctypes
import os
import pickle
import signal
import sys
import threading
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from glocal import random
from glocal.data.source import ImageSource, Unreadable
from glocal.data.stream import Stream
from glocal.errors import UsageError
from glocal.features import Sequences
from glocal.views.appearance import Appearance
from glocal.views.cache import PixelCache
from glocal.views.geometry import (
    crop_affine,
    crop_boxes,
    crop_sizes,
    draw_boxes,
    needed_scale,
    place_boxes,
    reduction,
    whole_boxes,
)
from glocal.views.moments import Moments
from glocal.views.packing import kept_patches, pack
from glocal.views.recipe import Recipe
from glocal.views.view import Batch, View

STOPPING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)}
"""Signals that end training, which saves first."""
ATTEMPTS = 32  # unreadable images in a row, for one place in a batch, after which the collection is called broken
AGAIN = 2**40  # random numbers are drawn by a key: the sample id, plus this for each time it came before in the epoch


@dataclass
class Packed:
    """A `Batch` as it travels from a worker: all pixels in one tensor, as each costs a connection, about 1 ms."""

    pixels: Tensor  # flat uint8 or float32, the views (B, size, size, 3), or patches, one after the other
    affine: np.ndarray  # (V, B, 2, 3) float32
    key: np.ndarray  # (B,) int64
    label: np.ndarray | None  # (B,) int64
    skipped: tuple[tuple[Any, str], ...]  # see `Batch`
    passed: tuple[int, str] | None = None  # see `Batch`
    layouts: list[tuple[np.ndarray, ...]] | None = None  # of views of `Sequences`: image, positions, grids
    shrunk: int = 0  # see `Batch`
    time: np.ndarray | None = None  # (V, B) float32
    extra: dict[str, np.ndarray] = field(default_factory=dict)  # see `Batch`

    def unpack(self, sizes: list[int]) -> Batch:
        """The batch, its views of these sides in pixels; nothing is copied."""
        images, pixels = len(self.key), list[Tensor | Sequences]()
        if self.layouts is None:
            parts = self.pixels.split([images * size * size * 3 for size in sizes])
            squares = zip(parts, sizes, strict=True)
            pixels += [part.view(images, size, size, 3).permute(0, 3, 1, 2) for part, size in squares]
        else:
            layouts = [[torch.from_numpy(part) for part in layout] for layout in self.layouts]
            rows = self.pixels.view(sum(image.numel() for image, *_ in layouts), -1)
            parts = rows.split([image.numel() for image, *_ in layouts])
            pixels += [Sequences(x.view(*of[0].shape, -1), *of) for x, of in zip(parts, layouts, strict=True)]
        times = repeat(None) if self.time is None else map(torch.from_numpy, self.time)
        parts_of = zip(pixels, map(torch.from_numpy, self.affine), times, strict=False)
        views = [View(of, affine, time=time) for of, affine, time in parts_of]
        index, key = torch.from_numpy(self.key % AGAIN), torch.from_numpy(self.key)
        label = None if self.label is None else torch.from_numpy(self.label)
        told: dict[str, Any] = {"skipped": self.skipped, "passed": self.passed, "shrunk": self.shrunk, "key": key}
        extra = {name: torch.from_numpy(values) for name, values in self.extra.items()}
        return Batch(views, index, label, extra=extra, **told)

    def pin_memory(self) -> Self:
        """For DataLoader: page-locked pixels copy to the GPU without waiting."""
        return replace(self, pixels=self.pixels.pin_memory())


@dataclass
class Samples(Dataset):
    """(epoch, keys) → batch. Errors are returned, not raised: DataLoader would wrap them in their traceback."""

    source: ImageSource
    recipe: Recipe
    seed: int
    cache: PixelCache | None
    subset: np.ndarray | None
    appearance: Appearance | None
    moments: Moments | None

    def __getitem__(self, position: tuple[int, np.ndarray]) -> Packed | Exception:
        try:
            return self._batch(*position)
        except Exception as error:
            return error if isinstance(error, UsageError) else _portable(error)

    def _batch(self, epoch: int, wanted: np.ndarray) -> Packed:
        if self.recipe.packing:
            return self._told(self._packed(epoch, wanted), wanted, epoch)
        images, sizes = len(wanted), [crop.size for crop in self.recipe.views]
        values, skipped = images * 3 * sum(size * size for size in sizes), list[tuple[Any, str]]()
        flat = torch.empty(values, dtype=torch.uint8) if self.appearance else _empty(values, torch.uint8)
        key, affine = np.empty(images, np.int64), np.empty((len(sizes), images, 2, 3), np.float32)
        batch = Packed(flat, affine, key, None, ())
        pixels = [view.pixels.permute(0, 2, 3, 1) for view in batch.unpack(sizes).views]
        draws = draw_boxes(self.recipe.views, seed=self.seed, epoch=epoch, samples=wanted)
        for row, one in enumerate(wanted.tolist()):
            key[row], views, affine[:, row], _ = self._sample(epoch, one, draws[row], skipped)
            for view, crop in zip(pixels, views, strict=True):
                view[row] = crop
        if self.appearance:
            finished = replace(batch, pixels=_empty(values, torch.float32))
            with one_thread():
                out = [view.pixels for view in finished.unpack(sizes).views]
                self.appearance(batch.unpack(sizes), epoch, out=out)
            batch = finished
        return self._told(replace(batch, skipped=tuple(skipped)), wanted, epoch)

    def _told(self, batch: Packed, wanted: np.ndarray, epoch: int) -> Packed:
        """The batch with what the source says of its samples."""
        if self.moments:
            frames = np.stack([self.moments.of(key % AGAIN, epoch, key) for key in batch.key.tolist()])
            of_views = frames[:, np.arange(len(self.recipe.views)) % frames.shape[1]]
            batch.time = self.moments.time[of_views.T].astype(np.float32)
            batch.extra = {name: values[frames] for name, values in self.moments.extra.items()}
        if isinstance(self.source, Stream):
            batch.passed = int(wanted[-1]), self.source.passed(int(wanted[-1]))
        labels = self.source.labels
        return replace(batch, label=None if labels is None else labels[batch.key % AGAIN])

    def _packed(self, epoch: int, wanted: np.ndarray) -> Packed:
        """A batch of native crops, each finished by itself, then cut into patches and packed, view by view."""
        packing, skipped = self.recipe.packing, list[tuple[Any, str]]()
        assert packing is not None
        assert self.appearance is not None
        draws = draw_boxes(self.recipe.views, seed=self.seed, epoch=epoch, samples=wanted)
        found = [self._sample(epoch, one, draws[row], skipped) for row, one in enumerate(wanted.tolist())]
        keys, crops, affine, shrunk = (list(part) for part in zip(*found, strict=True))
        key, views = np.array(keys), list[Sequences]()
        for number, images in enumerate(zip(*crops, strict=True)):
            with one_thread():
                finished = self.appearance.images(images, number, epoch, key)
            numbers = zip((image[0].numel() // packing.patch**2 for image in finished), keys, strict=True)
            kept = [kept_patches(n, packing, self.seed, epoch, one, number) for n, one in numbers]
            views.append(pack(finished, packing, kept))
        flat = torch.cat([view.patches.flatten() for view in views])
        pixels = _empty(len(flat), torch.float32).copy_(flat)
        layouts = [tuple(part.numpy() for part in (view.image, view.positions, view.grids)) for view in views]
        told: dict[str, Any] = {"layouts": layouts, "shrunk": sum(shrunk), "skipped": tuple(skipped)}
        return Packed(pixels, np.stack(affine, 1), key, label=None, **told)

    def _sample(
        self, epoch: int, wanted: int, draws: np.ndarray, skipped: list[tuple[Any, str]]
    ) -> tuple[int, list[Tensor], np.ndarray, int]:
        """The key of the sample really used, its crops, their maps (V, 2, 3), and how many of them were shrunk."""
        key, stream = wanted, isinstance(self.source, Stream)
        for attempt in range(ATTEMPTS):
            try:
                sample, number = key % AGAIN, len(self.recipe.views)
                parts = self.moments.parts(sample, epoch, key, number) if self.moments else {sample: [*range(number)]}
                return key, *self._views(parts, draws)
            except Unreadable as error:
                why, frame = error.args
                skipped.append((self.source.key(key) if stream else frame, why))
                allowed: Any = [key + 1] if stream else range(len(self.source)) if self.subset is None else self.subset
                draw = random.uniform(self.seed, "replace", epoch, wanted, attempt, n=1)
                key = int(allowed[int(draw[0] * len(allowed))])
                draws = draw_boxes(self.recipe.views, seed=self.seed, epoch=epoch, samples=np.array([key]))[0]
        last, reason = skipped[-1]
        last = self.source.key(last) if isinstance(last, int) else last
        what = f"{ATTEMPTS} images in a row of {self.source.name} cannot be read, the last being"
        raise UsageError(f"{what} {last} ({reason}): check that these are images and complete")

    def _views(self, parts: dict[int, list[int]], draws: np.ndarray) -> tuple[list[Tensor], np.ndarray, int]:
        """The crops of a sample, their maps (V, 2, 3), and how many were shrunk; `Unreadable`, why and which image."""
        found: dict[int, tuple[Tensor, np.ndarray]] = {}
        shrunk = 0
        for image, views in parts.items():
            try:
                crops, maps, few = self._crops(image, views, draws[views])
            except Unreadable as error:
                raise Unreadable(str(error), image) from error
            found |= zip(views, zip(crops, maps, strict=True), strict=True)
            shrunk += few
        crops_of, maps_of = zip(*(found[view] for view in range(len(found))), strict=True)
        return list(crops_of), np.stack(maps_of), shrunk

    def _crops(self, sample: int, views: list[int], draws: np.ndarray) -> tuple[list[Tensor], list[np.ndarray], int]:
        """The views of these numbers of one image, as `_views`."""
        crops = [self.recipe.views[view] for view in views]
        recipe = replace(self.recipe, views=tuple(crops))
        if self.cache is not None:
            boxes, flips = place_boxes(crops, draws, *self.cache.size(sample))
            sizes, shrunk = crop_sizes(recipe, draws, boxes)
            pixels, shrink = self.cache.read(sample)
        else:
            image = self.source.open(sample)
            boxes, flips = place_boxes(crops, draws, *image.size)
            sizes, shrunk = crop_sizes(recipe, draws, boxes)
            pixels = torch.from_numpy(image.decode(needed_scale(boxes, sizes)))
            shrink = reduction(image.size, (pixels.shape[1], pixels.shape[0]))
        whole = whole_boxes(boxes, shrink, pixels.shape[1], pixels.shape[0])
        cropped = crop_boxes(pixels, whole, sizes)
        turned = [pixels.flip(1) if flip else pixels for pixels, flip in zip(cropped, flips, strict=True)]
        home = whole / np.array((*shrink, *shrink))
        return turned, [crop_affine(*place) for place in zip(home, flips, sizes, strict=True)], shrunk


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums in an order that depends on nothing."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _portable(error: Exception) -> Exception:
    """The same error with its traceback as a note, which travels between processes; else a RuntimeError of its text."""
    trace = traceback.format_exc()
    with suppress(Exception):
        error.add_note(trace)
        if type(pickle.loads(pickle.dumps(error))) is type(error):
            return error
    return RuntimeError(trace)


def _empty(values: int, dtype: torch.dtype) -> Tensor:
    """A tensor (values,); of a worker, in memory that it shares with the main process: to send it is no copy."""
    if get_worker_info() is None:
        return torch.empty(values, dtype=dtype)
    storage = torch.UntypedStorage._new_shared(values * dtype.itemsize)
    return torch.empty(0, dtype=dtype).set_(storage)


def can_share(size: int) -> bool:
    """Whether so many bytes would leave as many of the memory that processes share (64 MB in an untold container)."""
    try:
        found = os.statvfs("/dev/shm")
    except (AttributeError, OSError):  # not Linux
        return True
    return 2 * size <= found.f_bavail * found.f_frsize


def tell_of_deaths_later() -> None:
    """Have a worker's death told by the next batch that is asked for, not amid a step that could not be saved."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's own handler raises wherever the program stands


def init_worker(low_priority: bool, _: int) -> None:
    # Signals reach the whole process group; only the main process should answer them, and it stops the workers.
    for name in STOPPING:
        signal.signal(name, signal.SIG_IGN)
    if sys.platform == "linux":  # have the kernel end this worker when its parent has ended, however that was
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before it could be asked for
            os._exit(1)
    sys.excepthook = _quiet_about_lost_connections
    torch.set_num_threads(1)
    if low_priority and hasattr(os, "nice"):
        os.nice(19)  # the least


def _quiet_about_lost_connections(kind, error, trace) -> None:
    # The main process may leave while a helper thread is handing it a batch.
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def signals_blocked():
    """Signals wait: worker processes started inside inherit the block, and none dies of one while importing."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
