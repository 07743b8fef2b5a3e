"""What predicts clusters: similarities to prototypes, and linear classifiers that change with every clustering."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.heads.projector import projector
from glocal.losses import sinkhorn
from glocal.losses.distillation import dino_loss
from glocal.losses.loss import upcast


class Prototypes(nn.Module):
    """Scores (..., K), dot products of vectors (..., D) with K rows of length 1, in float32.

    The rows are put back on the sphere before each forward pass in training, as in SwAV; the gradient does not go
    through that.
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


class OwnClusters(nn.Module):
    """Clusters of features that are still learnt: of two views (B, D) of the images, each predicts the other's.

    The assignment, balanced over the batch (`sinkhorn`), is SwAV's (Caron et al. 2020).

    Args:
        dim: D.
        number: K.
        temperature: of the predictions.
        epsilon: of the assignment; the smaller, the harder.
    """

    def __init__(self, dim: int, number: int, temperature: float, epsilon: float) -> None:
        super().__init__()
        self.projector, self.prototypes = projector((dim, 256, 64), norm="layer"), Prototypes(64, number)
        self.temperature, self.epsilon = temperature, epsilon

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """The clusters (B,) int64 of the first view, without gradient, and the loss of the predictions, ()."""
        z = F.normalize(upcast(self.projector(torch.cat([first, second]))), dim=1)
        scores = self.prototypes(z).chunk(2)
        codes = [sinkhorn(each.detach(), self.epsilon) for each in scores]
        return codes[0].argmax(1), dino_loss(list(scores), codes, self.temperature)


class TopLayers(nn.Module):
    """G linear classifiers over C classes, of which each vector takes one: (B, D) -> logits (B, C), float32.

    Empty classes have no part: their logits are −∞.
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
        """Start anew: weights N(0, .01²) by the seed, biases 0; `present` (G, C) says which classes are not empty."""
        weight = torch.empty(self.weight.shape).normal_(std=0.01, generator=torch.Generator().manual_seed(seed))
        self.weight.copy_(weight)
        self.bias.zero_()
        self.log_present.copy_(torch.where(present, 0.0, -torch.inf))

    def forward(self, x: Tensor, group: Tensor | None = None) -> Tensor:
        """Logits of each vector by the classifier of its group, (B,) int64; None: by the first.

        A `group` in main memory spares a wait: how many vectors each classifier gets has to be known there.
        """
        if group is None:
            return upcast(F.linear(x, self.weight[0], self.bias[0])) + self.log_present[0]
        here = group.cpu()
        order, sizes = here.argsort(stable=True), torch.bincount(here, minlength=len(self.weight)).tolist()
        group, order = torch.stack([here, order]).to(x.device, non_blocking=True)
        logits = x.new_zeros(len(x), self.weight.shape[1], dtype=upcast(x).dtype)
        for rows, weight, bias in zip(order.split(sizes), self.weight, self.bias, strict=True):
            logits = logits.index_add(0, rows, upcast(F.linear(x[rows], weight, bias)))
        return logits + self.log_present[group]
