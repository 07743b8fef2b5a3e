"""From codes back to images: a decoder, and Gaussian codes for it as a generator."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Decoder(nn.Sequential):
    """Codes (B, n) -> images (B, 3, s, s) in [0, 1]: a linear layer, then transposed convolutions, each twice as large.

    As in IRMAE (Jing et al. 2020), sec. 4, without normalisation; as in DC-GAN (Radford et al. 2016) with.

    Args:
        dim: n.
        image_size: s, pixels; a multiple of 8.
        width: channels of the last map but one; each one before has twice as many, at most 8 times.
        norm: BatchNorm after all but the last.
    """

    def __init__(self, dim: int, image_size: int, width: int = 32, *, norm: bool = False) -> None:
        levels = max(2, round(math.log2(image_size / 4)))
        side, wide = -(-image_size // 2**levels), width * 2 ** min(3, levels - 1)
        layers: list[nn.Module] = [nn.Linear(dim, wide * side**2), nn.Unflatten(1, (wide, side, side)), nn.ReLU()]
        for level in reversed(range(levels)):
            narrow = width * 2 ** min(3, level - 1) if level else 3
            layers += [nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1)]
            layers += [*([nn.BatchNorm2d(narrow)] if norm and level else []), nn.ReLU()]
            wide = narrow
        super().__init__(*layers[:-1], nn.Sigmoid())


class GaussianCodes(nn.Module):
    """A decoder of codes that are drawn from a Gaussian fitted to those of images: code = mean + factor·z.

    Args:
        dim: n, of codes and of the latent z.
        image_size: side of the images, pixels.

    Attributes:
        latent_shape: (n,).
        mean, factor: (n,) and (n, n), factor·factorᵀ being the covariance.
    """

    mean: Tensor
    factor: Tensor

    def __init__(self, dim: int, image_size: int) -> None:
        super().__init__()
        self.decode = Decoder(dim, image_size)
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("factor", torch.eye(dim))
        self.config: dict[str, Any] = {"name": "codes", "dim": dim, "image_size": image_size}
        self.latent_shape = (dim,)

    def forward(self, z: Tensor) -> Tensor:
        return self.decode(F.linear(z, self.factor, self.mean))

    @torch.no_grad()
    def fit(self, mean: Tensor, covariance: Tensor) -> None:
        """Draw from N(mean (n,), covariance (n, n)) from now on."""
        values, axes = torch.linalg.eigh(covariance.double())
        self.mean.copy_(mean)
        self.factor.copy_(axes * values.clamp_min(0).sqrt())
