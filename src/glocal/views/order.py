"""Which samples each batch of an epoch has."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch.utils.data import Sampler

from glocal import random
from glocal.views.dataset import AGAIN
from glocal.views.geometry import draw_boxes, native_sides
from glocal.views.packing import share_out
from glocal.views.recipe import Recipe

STEP = 8
"""Images are carried by so many, which up to as many processes, and their like, can share: a batch is theirs, too."""


@dataclass
class Positions(Sampler):
    """(epoch, keys (B,)) from `start` = (epoch, step) on: endless, or to the end of an epoch whose order is given.

    A batch that is packed ends where its sequences are fullest: the images that would begin another one are carried
    into the next batch, and the epoch's last one takes all that are left. That is told from the sizes that are drawn,
    not from the images: a pure function of the seed and the epoch, the same for any number of processes.
    """

    images: int
    steps: int
    batch_size: int
    seed: int
    rank: int
    world_size: int
    shuffle: bool
    start: tuple[int, int] = (0, 0)
    given: np.ndarray | range | None = None
    recipe: Recipe = field(default_factory=lambda: Recipe(()))
    samples: np.ndarray | None = None  # their ids, where these are not 0 to `images` - 1

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        epoch, start = self.start
        while True:
            order: Any = np.arange(self.images) if self.given is None else self.given
            if self.given is None and self.shuffle:
                order = random.permutation(self.images, self.seed, "order", epoch)
            if self.given is None and self.samples is not None:
                order = self.samples[order]
            for first, end in self._batches(epoch, order, start):
                share = -(-(end - first) // self.world_size)
                mine = slice(first + self.rank * share, min(end, first + (self.rank + 1) * share))
                yield epoch, np.asarray(order[mine])
            if self.given is not None:
                return
            epoch, start = epoch + 1, 0

    def _batches(self, epoch: int, order: Any, start: int) -> Iterator[tuple[int, int]]:
        """Where the batches of an epoch from `start` on begin and end in its order, those of all processes together."""
        total = self.batch_size * self.world_size
        first = 0 if self.recipe.packing else start * total  # where one ends depends on where all before it did
        for step in range(0 if self.recipe.packing else start, self.steps):
            end = min((step + 1) * total, len(order))
            if self.recipe.packing and step + 1 < self.steps:
                end -= self._carried(epoch, np.asarray(order[first:end]))
            if step >= start:
                yield first, end
            first = end

    def _carried(self, epoch: int, keys: np.ndarray) -> int:
        """How many of the last images (N,) of a batch are left to the next, at most an eighth: as fills sequences best.

        The patches of an image are counted by its area, since its shape is not known.
        """
        packing = self.recipe.packing
        assert packing is not None
        draws = draw_boxes(self.recipe.views, seed=self.seed, epoch=epoch, samples=keys)
        patches = ((native_sides(self.recipe.views, draws) / packing.patch) ** 2).clip(1, packing.room)
        idle = np.zeros(len(keys))
        for lengths in (patches * (1 - packing.drop)).T:
            filled = [lengths[members].sum() for members in share_out(lengths.tolist(), packing.tokens)]
            sequences = lengths.cumsum() / (np.mean(filled[:-1]) if len(filled) > 1 else packing.tokens)
            idle += np.ceil(sequences) - sequences
        possible = range(0, len(keys) // 8 + 1, math.lcm(STEP, self.world_size))
        return min(possible, key=lambda carried: idle[len(keys) - 1 - carried])


def keys_of(order: np.ndarray) -> np.ndarray:
    """Keys of an order of sample ids, (N,) int64."""
    by_sample = order.argsort(kind="stable")
    _, starts, counts = np.unique(order[by_sample], return_index=True, return_counts=True)
    times = np.empty_like(order)
    times[by_sample] = np.arange(len(order)) - np.repeat(starts, counts)
    return order + AGAIN * times
