"""The fully connected layers with which AlexNet and VGG-16 go on from their last map."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.backbones.cells import evaluating
from glocal.features import Features


class FullyConnected(nn.Module):
    """Linear layers on the flattened map, ReLU and dropout of a half between them: Features -> (B, D).

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
