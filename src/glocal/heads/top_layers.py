"""Linear classifiers of cluster labels, which change with every clustering."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.losses.loss import upcast


class TopLayers(nn.Module):
    """G linear classifiers over C classes, of which each vector takes one: (B, D) -> logits (B, C), float32.

    Empty classes have no part: their logits are −∞.

    Args:
        dim: D.
        groups: G.
        classes: C.
    """

    log_present: Tensor

    def __init__(self, dim: int, groups: int, classes: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(groups, classes, dim))
        self.bias = nn.Parameter(torch.zeros(groups, classes))
        nn.init.normal_(self.weight, std=0.01)
        self.register_buffer("log_present", torch.zeros(groups, classes))

    @torch.no_grad()
    def renew(self, seed: int, present: Tensor) -> None:
        """Start anew: weights N(0, .01²), biases 0.

        Args:
            seed: of the weights.
            present: (G, C) bool, the classes that are not empty.
        """
        weight = torch.empty(self.weight.shape).normal_(std=0.01, generator=torch.Generator().manual_seed(seed))
        self.weight.copy_(weight)
        self.bias.zero_()
        self.log_present.copy_(torch.where(present, 0.0, -torch.inf))

    def forward(self, x: Tensor, group: Tensor) -> Tensor:
        """Logits of each vector by the classifier of its group, (B,) int64."""
        logits = x.new_zeros(len(x), self.weight.shape[1], dtype=upcast(x).dtype)
        for number, (weight, bias) in enumerate(zip(self.weight, self.bias, strict=True)):
            rows = (group == number).nonzero()[:, 0]
            logits = logits.index_add(0, rows, upcast(F.linear(x[rows], weight, bias)))
        return logits + self.log_present[group]
