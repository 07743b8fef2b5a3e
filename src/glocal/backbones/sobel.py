"""Networks that see edges only: DeepCluster and DeeperCluster take colour, a short cut to clusters, from theirs."""

from __future__ import annotations

from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Sobel(nn.Module):
    """The mean of the channels, then its horizontal and vertical Sobel gradients: (B, 3, h, w) -> (B, 2, h, w)."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("kernels", torch.stack([across, across.T])[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.mean(dim=1, keepdim=True), self.kernels.to(x.dtype), padding=1)


def _with_sobel(name: str, **options: Any) -> nn.Module:
    """timm's `name` on Sobel gradients."""
    model: Any = timm.create_model(name, in_chans=2, **options)
    if hasattr(model, "conv1"):
        model.conv1 = nn.Sequential(Sobel(), model.conv1)
    else:
        model.features.insert(0, Sobel())
    return model


sobel_vgg16_bn = partial(_with_sobel, "vgg16_bn")
sobel_resnet18 = partial(_with_sobel, "resnet18")
sobel_resnet50 = partial(_with_sobel, "resnet50")
