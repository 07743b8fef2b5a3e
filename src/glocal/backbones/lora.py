"""Low-rank adaptation (LoRA, Hu et al. 2022, arXiv 2106.09685): W + (alpha / rank)·B·A, in which only A and B train."""

import math

from torch import Tensor, nn
from torch.nn.utils import parametrize

from glocal.backbones.fold import Folding
from glocal.errors import UsageError


class LowRank(Folding):
    """Weights (out, ...) plus a product of rank `rank`: of matrices B (out, rank), 0 at first, and A (rank, rest)."""

    def __init__(self, weight: Tensor, rank: int, alpha: float) -> None:
        super().__init__()
        rows = weight.flatten(1)
        self.a = nn.Parameter(rows.new_empty(rank, rows.shape[1]))
        self.b = nn.Parameter(rows.new_zeros(len(rows), rank))
        self.scale = alpha / rank
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.scale * (self.b @ self.a).view_as(weight)


def add_lora(module: nn.Module, rank: int = 8, alpha: float = 16.0) -> None:
    """Freeze a network, and let a product of low rank train beside the weight of each linear layer and convolution.

    At first it computes what it did, to the bit. Convolutions in groups stay as they are: of a depthwise one, each
    channel has a matrix of its own, of rank 1 already.

    Args:
        module: changed in place; its state dict has other names until `fold`.
        rank: of the products.
        alpha: they are scaled by alpha / rank.

    Raises:
        UsageError: where there is no such layer.
    """
    module.requires_grad_(False)
    layers = [m for m in module.modules() if isinstance(m, nn.Linear | nn.Conv2d) and getattr(m, "groups", 1) == 1]
    if not layers:
        raise UsageError("LoRA finds no linear layer and no convolution to adapt; train all weights instead")
    for layer in layers:
        parametrize.register_parametrization(layer, "weight", LowRank(layer.weight, rank, alpha))
