"""Prototypes: K directions that embeddings are compared with."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Prototypes(nn.Module):
    """Scores (..., K), dot products of vectors (..., D) with K rows of length 1, in float32.

    The rows are put back on the sphere before each forward pass in training, as in SwAV; the gradient does not go
    through that.

    Args:
        dim: D.
        number: K.
    """

    def __init__(self, dim: int, number: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(number, dim))
        nn.init.uniform_(self.weight, -(dim**-0.5), dim**-0.5)

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            with torch.no_grad():
                self.weight.copy_(F.normalize(self.weight, dim=1))
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.to(self.weight.dtype), self.weight)
