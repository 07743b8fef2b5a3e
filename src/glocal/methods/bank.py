"""What the clustering methods do before an epoch: see all images, and say which belong together."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from glocal.distributed import all_sum
from glocal.views import PlainImages


@torch.no_grad()
def bank_features(method: nn.Module, bank: PlainImages, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Sample ids (N,) and vectors (N, D), float32, of this process's share of the images.

    Args:
        method: put in evaluation mode meanwhile.
        bank: of the images.
        embed: pixels (B, 3, h, w) -> (B, D).
    """
    training = method.training
    method.eval()
    pairs = [(batch.index, embed(batch.views[0].pixels).float()) for batch in bank]
    method.train(training)
    ids, vectors = zip(*pairs, strict=True)
    return torch.cat(ids), torch.cat(vectors)


def for_all(ids: Tensor, labels: Tensor, images: int) -> Tensor:
    """Labels (images,) int64 of all images, in main memory, from those that each process found of its own; else −1.

    Args:
        ids: (N,) sample ids; an id may stand more than once on one process, as where an image replaces a broken one.
        labels: (N,) int64.
        images: number of all.
    """
    found = labels.new_zeros(2, images)
    found[0, ids], found[1, ids] = labels, 1
    total, processes = all_sum(found)
    return torch.where(processes > 0, total // processes.clamp_min(1), -1).cpu()
