"""What the clustering methods share: a pass over all images before an epoch, and the layers behind the last map."""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.backbones.cells import evaluating
from glocal.distributed import all_sum
from glocal.features import Features
from glocal.views import Crop, PlainImages, Recipe


def crops_only(size: int, scale: tuple[float, float]) -> Recipe:
    """One random crop, perhaps mirrored, of unchanged colours."""
    return Recipe((Crop(size, scale=scale, jitter=0.0, gray=0.0),))


@torch.no_grad()
def bank_features(method: nn.Module, bank: PlainImages, embed: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
    """Sample ids (N,) and vectors (N, D) of this process's share of the images, in main memory, as precise as computed.

    The method is in evaluation mode meanwhile; `embed` gives (B, D) of pixels (B, 3, h, w).
    """
    training, vectors = method.training, torch.empty(0)
    ids = torch.empty(bank.share, dtype=torch.int64)
    method.eval()
    done = 0
    for batch in bank:
        found, rows = embed(batch.views[0].pixels), slice(done, done := done + len(batch.index))
        if not len(vectors):  # not joined at the end, which would take as much again
            vectors = torch.empty(len(ids), found.shape[1], dtype=found.dtype)
        ids[rows], vectors[rows] = batch.index, found
    method.train(training)
    return ids, vectors


def for_all(ids: Tensor, labels: Tensor, images: int) -> Tensor:
    """Labels (images,) int64 of all images, in main memory, from those that each process found of its own; else −1.

    Args:
        ids: (N,) sample ids; an id may stand more than once on one process, as where an image replaces a broken one.
        labels: (N,) int64.
        images: number of all.
    """
    found, ids = labels.new_zeros(2, images), ids.to(labels.device)
    found[0, ids], found[1, ids] = labels, 1
    total, processes = all_sum(found)
    return torch.where(processes > 0, total // processes.clamp_min(1), -1).cpu()


class FullyConnected(nn.Module):
    """Linear layers on the flattened map, ReLU and dropout of a half between them: Features -> (B, D).

    AlexNet and VGG-16 go on with such from their last map.

    Args:
        backbone: whose map it is.
        image_size: of the images, pixels.
        widths: of the layers; with none, the pooled features are passed on. None: (4096, 4096) for AlexNets and VGGs,
            whose publications have them, none for others.

    Attributes:
        dim: D.
    """

    def __init__(self, backbone: Backbone, image_size: int, widths: Sequence[int] | None) -> None:
        super().__init__()
        if widths is None:
            widths = (4096, 4096) if any(kind in backbone.name for kind in ("alexnet", "vgg")) else ()
        self.layers = nn.Sequential()
        self.dim = widths[-1] if widths else backbone.dim
        if widths:
            with evaluating(backbone):
                map_ = backbone(torch.zeros(1, 3, image_size, image_size)).dense
            for before, after in pairwise((map_.numel(), *widths)):
                linear = nn.Linear(before, after)
                nn.init.normal_(linear.weight, std=0.01)
                nn.init.zeros_(linear.bias)
                self.layers.extend([nn.ReLU(), nn.Dropout(0.5), linear] if self.layers else [nn.Flatten(), linear])

    def forward(self, features: Features) -> Tensor:
        """Without a last ReLU: what is clustered."""
        return self.layers(features.dense) if self.layers else features.pooled

    def activated(self, features: Features) -> Tensor:
        """With one, where there are layers: what is classified."""
        return self(features).relu() if self.layers else features.pooled
