"""The head of DINO (and of LOCA's clusters): a perceptron onto a sphere, and similarities to K directions."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.heads.batch_norm import BatchNorm
from glocal.heads.projector import _Projector
from glocal.losses.loss import upcast


class DINOHead(nn.Module):
    """Three GELU layers, L2 normalisation, and a linear layer whose rows have norm 1: (..., D) -> (..., K) logits.

    DINO (Caron et al. 2021), appendix C: the weight-normalised last layer with its gain fixed at 1, and no
    normalisation, or BatchNorm before each GELU.

    Args:
        dim: D.
        hidden: width of the two hidden layers.
        bottleneck: width of the normalised vectors.
        outputs: K.
        norm: of the hidden layers.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        outputs: int = 65536,
        norm: Literal["batch", "none"] = "none",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, hidden):
            layers += [nn.Linear(width, hidden), *([BatchNorm(hidden)] if norm == "batch" else []), nn.GELU()]
        self.mlp = _Projector(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Parameter(torch.empty(outputs, bottleneck))
        bound = bottleneck**-0.5  # as nn.Linear does; the norm sets how fast the directions turn
        nn.init.uniform_(self.last, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        # float32: the default eps of normalisation is nothing in half precision
        return F.linear(F.normalize(upcast(self.mlp(x)), dim=-1), F.normalize(self.last, dim=-1))
