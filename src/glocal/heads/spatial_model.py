"""What the places of joints say of each other: a graphical model on heat-maps, all of it convolutions."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

SIDE = 16
"""Cells of a side of the map that kernels are kept for; for other maps they are resized."""
LEAST = 0.01
"""Of displacements that were never seen, before training: what all of them weigh together, against 1."""
BACKGROUND, OWN = 0.02, 1e-3
"""What another joint, and the joint itself, says of a place that it says nothing of, before training: joints tell much
the same, and taken at their word would together be far too sure."""


def convolve(kernels: Tensor, maps: Tensor) -> Tensor:
    """Each map with each of its kernels, by FFT: out[b, a, v, p] = Σ_q kernels[a, v, p − q] · maps[b, v, q].

    In float32 it is within 1e-6 of the product of the norms of a kernel and a map.

    Args:
        kernels: (A, V, 2H−1, 2W−1), displacement 0 in the middle.
        maps: (B, V, H, W).

    Returns:
        (B, A, V, H, W).
    """
    height, width = maps.shape[-2:]
    size = 2 * height, 2 * width  # what wraps around falls outside of the part that is kept
    product = torch.fft.rfft2(maps, s=size)[:, None] * torch.fft.rfft2(kernels, s=size)
    return torch.fft.irfft2(product, s=size)[..., height - 1 : 2 * height - 1, width - 1 : 2 * width - 1]


class SpatialModel(nn.Module):
    """Where a joint is likely, given the heat-maps of all joints (Tompson et al. 2014, arXiv 1406.2984, eq. 3).

    ē_A = exp Σ_v log( SoftPlus(e_{A|v}) ∗ ReLU(e_v) + SoftPlus(b_{v→A}) ): v, where it is likely, says where A may be,
    by the kernel of displacements from v to A; where it says nothing, the background b is left.

    Args:
        joints: J.
    """

    def __init__(self, joints: int) -> None:
        super().__init__()
        side = 2 * SIDE - 1
        self.kernel = nn.Parameter(torch.full((joints, joints, side, side), _unsoftplus(1 / side**2)))
        background = torch.full((joints, joints), _unsoftplus(BACKGROUND)).fill_diagonal_(_unsoftplus(OWN))
        self.background = nn.Parameter(background)

    def forward(self, heat: Tensor) -> Tensor:
        """log ē (B, J, H, W) of heat-maps e (B, J, H, W)."""
        height, width = heat.shape[-2:]
        kernel: Tensor = self.kernel
        if (height, width) != (SIDE, SIDE):
            size = 2 * height - 1, 2 * width - 1
            kernel = F.interpolate(kernel, size=size, mode="bilinear", align_corners=True)
        messages = convolve(F.softplus(kernel), F.relu(heat)).clamp_min(0)  # but for the rounding of the FFT
        return (messages + F.softplus(self.background)[..., None, None]).log().sum(2)

    @torch.no_grad()
    def begin(self, places: Tensor, known: Tensor, *, sigma: float = 2.0) -> None:
        """Take kernels from where joints lie.

        Args:
            places: (N, J, 2) as (x, y), fractions of the map's sides.
            known: (N, J) bool.
            sigma: of the smoothing, cells.
        """
        cells = torch.arange(1 - SIDE, SIDE, dtype=torch.float64)
        for a in range(places.shape[1]):
            moved = SIDE * (places[:, a, None] - places).double()  # (N, J, 2)
            x, y = torch.exp(-0.5 * ((cells - moved[..., None]) / sigma).square()).unbind(2)  # (N, J, cells) each
            both = (known[:, a, None] & known).double()
            found = torch.einsum("nv,nvy,nvx->vyx", both, y, x)
            found /= found.sum((1, 2), keepdim=True).clamp_min(1e-12)
            found = found * (1 - LEAST) + LEAST / found[0].numel()
            self.kernel[a] = found.expm1().log().to(self.kernel)


def _unsoftplus(x: float) -> float:
    return math.log(math.expm1(x))
