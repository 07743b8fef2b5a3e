"""What a method may look at before an epoch, and what it may decide about it: clustering methods need both."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor

from glocal.views.appearance import Appearance
from glocal.views.loader import ViewLoader
from glocal.views.recipe import Crop, Recipe
from glocal.views.view import Batch


@dataclass
class EpochPlan:
    """What is served in an epoch, and with what targets. Part of a checkpoint.

    Attributes:
        order: (N,) int64, the samples to serve, in order; some may come several times (with views of their own), others
            not at all. None: all, shuffled.
        targets: (T, N) int64, T targets of each sample; a batch brings its own as `Batch.target`.
        renewed: beginnings of the names of parameters that start anew: what the optimiser remembers of them is dropped.
    """

    order: Tensor | None = None
    targets: Tensor | None = None
    renewed: tuple[str, ...] = ()

    def with_targets(self, batch: Batch) -> Batch:
        """The batch with the targets of its samples."""
        if self.targets is None:
            return batch
        target = self.targets[:, batch.index].T
        return replace(batch, target=target, planned=target)

    def numbers(self, before: Self | None) -> dict[str, float]:
        """What the log says of the (first) targets as a clustering; nothing where there are none.

        How many clusters have a sample, the share of all samples in the largest one, and, after the first plan, how far
        it is the clustering of the epoch before: mutual information over √(H·H'), 0 to 1 (Caron et al. 2018, eq. 3; it
        rises as training settles, without reaching 1).
        """
        if self.targets is None:
            return {}
        now = self.targets[0]
        sizes = torch.bincount(now[now >= 0])
        found = {"clusters/used": float((sizes > 0).sum()), "clusters/largest": float(sizes.max() / sizes.sum())}
        if before is not None and before.targets is not None:
            from sklearn.metrics import normalized_mutual_info_score  # a second, for clustering methods only

            both = (now >= 0) & (before.targets[0] >= 0)
            pair = now[both].numpy(), before.targets[0][both].numpy()
            found["clusters/nmi"] = float(normalized_mutual_info_score(*pair, average_method="geometric"))
        return found


class PlainImages:
    """All images, once each, plain: their largest central square, without augmentation. Iterated before an epoch.

    On several processes each gets a share. Batches have one view, ready for the encoder, and the sample ids.

    Args:
        loader: of the training views.
        size: side of the images, pixels.
        appearance: of the training views; says how to normalise.
        device: where the batches are wanted.
        rank, world_size: index of this process, and their number.

    Attributes:
        device: where the batches are.
        share: how many images this process gets.
        seed: of whatever is drawn.
        epoch: the epoch to plan.
        plan: the last epoch's plan, None before the first.
    """

    def __init__(
        self, loader: ViewLoader, size: int, appearance: Appearance, *, device: Any, rank: int = 0, world_size: int = 1
    ) -> None:
        recipe = Recipe((Crop(size, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, gray=0),))
        self._loader = loader.plain(recipe)
        self._appearance = Appearance(recipe, appearance.mean, appearance.std, appearance.seed)
        self.device = device
        steps = self._loader.steps_per_epoch
        self._first, self._last = steps * rank // world_size, steps * (rank + 1) // world_size
        first, end = (min(step * self._loader.batch_size, loader.images) for step in (self._first, self._last))
        self.share = end - first
        self.seed, self.images, self.epoch = appearance.seed, loader.images, 0
        self.plan: EpochPlan | None = None

    def __len__(self) -> int:
        """Number of images, over all processes."""
        return self.images

    def __iter__(self) -> Iterator[Batch]:
        for batch in islice(self._loader.epoch(0, self._first), self._last - self._first):
            yield self._appearance(batch, 0, self.device)
        self._loader.close()  # its workers would wait out the whole epoch
