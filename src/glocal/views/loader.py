"""`ViewLoader`: from a collection of images to batches of views, repeatable to the pixel."""

import atexit
import multiprocessing
import sys
import weakref
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import repeat
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from glocal.data.source import ImageSource
from glocal.data.stream import Stream, StreamEnded
from glocal.errors import UsageError
from glocal.views.appearance import Appearance
from glocal.views.cache import PixelCache
from glocal.views.dataset import AGAIN, Packed, Samples, can_share, init_worker, signals_blocked, tell_of_deaths_later
from glocal.views.moments import Moments
from glocal.views.order import Positions, keys_of
from glocal.views.recipe import Recipe, Support
from glocal.views.support import balanced_draws, choose_labelled, support_seed
from glocal.views.view import Batch


class Loader(Protocol):
    """Where batches come from, of images (`ViewLoader`) or anything else."""

    steps_per_epoch: int  # batches of an epoch on this process, the same number on all; with less, training ends

    def epoch(self, epoch: int, start: int = 0, order: Tensor | None = None, /) -> Iterator[Batch]:
        """The batches of an epoch but for the first `start`: the same ones whenever they are asked for.

        `order` are sample ids to serve instead of all, shuffled: what an `EpochPlan` of the method says.
        """

    def close(self) -> None:
        """Training is over: stop the workers."""


class ViewLoader:
    """Batches of views of a collection of images.

    What sample i looks like in epoch e is a pure function of (seed, epoch, sample, view): the same for any number of
    workers, processes or restarts. The ranks' batches of one step, joined, are the batch of one process of
    `batch_size * world_size`. No global random generator is touched.

    Images that cannot be read are replaced, within the batch, by others chosen in the same pure way, and are listed in
    `Batch.skipped`.

    Args:
        source: the images; `UsageError` if not enough for one batch, or without labels or clips where the recipe wants
            some.
        recipe: the views to take of each.
        batch_size: images per step, per process.
        seed: the run's seed.
        workers: processes that decode and crop; 0 does it in this one. They start with the first batch, and stay.
        low_priority: the workers take only what other processes leave, above all this one's waits: where training
            itself is on all cores, it is as slow as its slowest thread.
        rank, world_size: index of this process, and their number.
        shuffle: a new order every epoch; else the source's own order, as always of a stream.
        drop_last: leave out the last, smaller batch of an epoch.
        cache: where to take the pixels from instead of decoding; of the same source and recipe. Its images are shrunk
            first, so crops differ (slightly) from those without.
        appearance: of the same recipe, to be carried out by the workers too, on one thread each, so that views come out
            normalised. For training on a CPU; a GPU does it better, on the uint8 views that come out without. Needed
            where images are packed.
        subset: (N,) ids of the images that may be served, of which every epoch is then given an order; None: all.
        steps: batches of an epoch; None: as many as there are images for. A stream may end before.

    Attributes:
        notes: what a person should know.
        streams: whether the source is a stream.
    """

    _stream: Iterator[Packed | Exception]
    _next: tuple[int, int] | None

    def __init__(
        self,
        source: ImageSource,
        recipe: Recipe,
        *,
        batch_size: int,
        seed: int,
        workers: int = 0,
        low_priority: bool = False,
        rank: int = 0,
        world_size: int = 1,
        shuffle: bool = True,
        drop_last: bool = True,
        cache: PixelCache | None = None,
        appearance: Appearance | None = None,
        subset: np.ndarray | None = None,
        steps: int | None = None,
    ):
        if world_size > 1 and not drop_last:
            raise ValueError("drop_last=False needs world_size=1: the ranks' last batches would differ in size")
        total = batch_size * world_size
        self.notes: list[str] = [] if cache is None else [cache.note]
        self.batch_size, self.streams = batch_size, isinstance(source, Stream)
        moments = Moments(source, recipe.frames, seed) if recipe.frames else None
        self.images = images = AGAIN if self.streams else len(source if moments is None else moments.samples)
        if moments:
            subset = moments.samples if subset is None else subset
        self.steps_per_epoch = steps or (images // total if drop_last else -(-images // total))
        if self.steps_per_epoch == 0:
            what = f"sample{'' if images == 1 else 's'} of {moments.frames.span} frames" if moments else ""
            has = f"{source.name} has {images} {what or 'image' + ('' if images == 1 else 's')}"
            per = f"{total} ({world_size} processes × {batch_size})" if world_size > 1 else str(total)
            why = f", fewer than one batch of {per}: choose a smaller batch size or add images"
            raise UsageError(has + (why if images else ": nothing to make a batch of"))
        packed = recipe.packing is not None
        if moments and moments.note:
            self.notes.append(moments.note)
        if packed and appearance is None:
            raise ValueError("images of several shapes are finished by their loader: give it an appearance")
        values = 3 * batch_size * sum((crop.native[1] if crop.native else crop.size) ** 2 for crop in recipe.views)
        # each worker has two batches ready, and makes a third
        if appearance and not packed and not can_share(4 * values * 3 * workers * world_size):
            appearance = None
            self.notes.append("too little shared memory (/dev/shm): training finishes views itself")
        raw = (4 if packed else 1) * 3 * values * world_size  # bytes of a worker's batches
        free = appearance and not packed
        fitting = workers if free else next((n for n in range(workers, 0, -1) if can_share(raw * n)), 0)
        if fitting < workers:
            wanted = f"{workers}: a container would need --shm-size {(2 * raw * workers >> 30) + 1}g"
            self.notes.append(f"{fitting} loader workers, since shared memory (/dev/shm) has no room for {wanted}")
            workers = fitting
        place = images, self.steps_per_epoch, batch_size, seed, rank, world_size, shuffle
        self._positions = Positions(*place, recipe=recipe, samples=moments.samples if moments else None)
        self._positions.given = self._order = range(AGAIN) if self.streams else None
        self._sizes = [crop.size for crop in recipe.views]
        self._of_source = partial(ViewLoader, source, batch_size=batch_size, seed=seed, workers=workers)
        self._new_reader = partial(
            DataLoader,
            Samples(source, recipe, seed, cache, subset, appearance, moments),
            batch_size=None,
            sampler=self._positions,
            num_workers=workers,
            # elsewhere, and by default from Python 3.14 on, workers are not this process's children: orphans outlive it
            multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
            collate_fn=_as_is,
            pin_memory=torch.cuda.is_available() and not low_priority,  # which is for training on the CPU
            worker_init_fn=partial(init_worker, low_priority),
            persistent_workers=workers > 0,
            generator=torch.Generator(),
        )
        self._support: _SupportLoader | None = None
        if recipe.support:
            settings: dict[str, Any] = {"rank": rank, "world_size": world_size, "steps": self.steps_per_epoch}
            settings |= {"workers": -(-workers // 2), "low_priority": low_priority, "cache": cache}
            settings |= {"appearance": appearance and appearance.support}
            self._support = _SupportLoader(source, recipe.support, seed, **settings)
            self.notes.append(self._support.note)
        self.close()
        _open.add(self)

    def epoch(self, epoch: int, start_step: int = 0, order: Tensor | None = None) -> Iterator[Batch]:
        """The batches of one epoch, from `start_step` on: pixels (B, 3, size, size), channels-last in memory.

        Of packed images, `Sequences`; B then differs a little from batch to batch (see `Positions`).

        `order`: sample ids to serve instead of a shuffle of all, at least as many as an epoch has. A sample that comes
        again looks different each time. `UsageError` if very many images in a row cannot be read.
        """
        if order is not None or self._positions.given is not None:
            self._positions.given = self._order if order is None else keys_of(order.numpy())
            self._next = None  # the stream knows nothing of it
        supports = self._support.epoch(epoch, start_step) if self._support else repeat(None)
        with suppress(StreamEnded):
            for step in range(start_step, self.steps_per_epoch):
                yield replace(self._take(epoch, step).unpack(self._sizes), support=next(supports))

    def plain(self, recipe: Recipe) -> "ViewLoader":
        """A loader of other views of the same images, each once, in their own order, all on this process."""
        return self._of_source(recipe, shuffle=False, drop_last=False)

    def close(self) -> None:
        """Stop the workers. Another epoch would start new ones."""
        if self._support:
            self._support.loader.close()
        self._stream = iter(())
        self._reader = self._new_reader()
        self._next = None

    def _take(self, epoch: int, step: int) -> Packed:
        # The stream runs on into the next epoch, so that workers don't idle in between; any other place restarts it.
        if self._next != (epoch, step):
            self._positions.start = (epoch, step)
            with signals_blocked():
                self._stream = iter(self._reader)
            tell_of_deaths_later()
        self._next = None  # unless the next line succeeds
        batch = next(self._stream)
        if isinstance(batch, Exception):
            try:
                raise batch
            finally:
                del batch  # else it and this frame would hold each other, and the workers with them
        self._next = (epoch, step + 1) if step + 1 < self.steps_per_epoch else (epoch + 1, 0)
        return batch


class _SupportLoader:
    """The labelled images that accompany the batches; those of all ranks, joined, are classes × images in that order.

    Their views are drawn with a seed of their own: an image that is in both has nothing in common but itself.
    """

    def __init__(self, source: ImageSource, support: Support, seed: int, *, world_size: int, **settings: Any):
        self.seed, self.ids, self.support = support_seed(seed), choose_labelled(source, support.labelled, seed), support
        self.alone, total = world_size == 1, min(support.classes, len(self.ids)) * support.images
        if total % world_size:
            raise UsageError(f"{total} support images cannot be shared by {world_size} processes: change their number")
        settings |= {"seed": self.seed, "world_size": world_size, "subset": np.concatenate(self.ids)}
        self.loader = ViewLoader(source, Recipe(support.views), batch_size=total // world_size, **settings)
        labelled = sum(len(of_class) for of_class in self.ids)
        self.note = f"{labelled:,} of {len(source):,} labels used, of {len(self.ids)} classes"

    def epoch(self, epoch: int, start_step: int) -> Iterator[Batch]:
        draws = balanced_draws(self.ids, self.support, self.loader.steps_per_epoch, self.seed, epoch)
        for batch in self.loader.epoch(epoch, start_step, torch.from_numpy(draws.ravel())):
            # one that replaces another may be of any class, which other processes do not know
            yield replace(batch, classes=draws.shape[1] if self.alone and not batch.skipped else None)


_open: weakref.WeakSet[ViewLoader] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    # Before DataLoader's own hook, which leaves the workers to be waited for, five seconds each.
    for loader in list(_open):
        loader.close()
    for child in multiprocessing.active_children():
        if child.daemon:  # a worker that hangs: it would not hear SIGTERM
            child.kill()


def _as_is(item):
    return item
