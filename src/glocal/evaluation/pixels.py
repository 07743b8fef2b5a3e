"""The image itself as a feature: the baseline that any learnt encoder has to beat."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.features import Features
from glocal.views import grid_centers


class Pixels(nn.Module):
    """An encoder without parameters.

    Pooled: the image shrunk to `size`×`size`, flattened, each image standardised, so that cosine similarity is the
    correlation of the pictures. Dense: the pixels of each `stride`×`stride` patch, shrunk to at most 8×8, flattened.

    Args:
        size: side of the shrunken image, pixels.
        stride: side of a patch, pixels.
        image_size: what it is evaluated at unless told otherwise.
    """

    name = "pixels"
    pool = "native"
    norm = "batch"
    mean = (0.485, 0.456, 0.406)
    std = (0.229, 0.224, 0.225)

    def __init__(self, size: int = 16, stride: int = 16, image_size: int = 96):
        super().__init__()
        self.size, self.stride, self.image_size = size, stride, image_size
        self.dim = 3 * size * size
        self.config = {"name": "pixels", "size": size, "stride": stride, "image_size": image_size}

    def cells(self, height: int, width: int, device: torch.device | None = None) -> Tensor:
        """(H, W, 2), the centres of the patches in crop pixels."""
        return grid_centers(height, width, height * self.stride, width * self.stride, device=device)

    def forward(self, x: Tensor) -> Features:
        """Features of normalised images (B, 3, h, w); what is left of h and w beyond whole patches is not looked at."""
        small = F.interpolate(x, (self.size, self.size), mode="bilinear", antialias=True, align_corners=False).flatten(
            1
        )
        pooled = (small - small.mean(1, keepdim=True)) / (small.std(1, keepdim=True) + 1e-5)
        height, width = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        whole = x[..., : height * self.stride, : width * self.stride]
        side = min(8, self.stride)
        shrunk = F.adaptive_avg_pool2d(whole, (height * side, width * side))
        tokens = F.unfold(shrunk, side, stride=side).transpose(1, 2)
        positions = self.cells(height, width, x.device).flatten(0, 1)
        return Features(pooled, tokens, positions, grid=(height, width))
