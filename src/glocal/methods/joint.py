"""Joint embedding as one contract: predictions from one view are compared with targets from another.

BYOL, MoCo-v3 and DINO are this with different heads and comparisons; CO- applies the same twice (see `co`).
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.features import Features
from glocal.losses import Loss
from glocal.views import Batch


class JointEmbedding(Protocol):
    """What a method says so that `cross_view` and `co` can work on it.

    Where it has an `after_step`, it also says `momentum_at(progress)`, and its heads `follow(momentum)`.
    """

    encoder: Backbone
    heads: Any
    """What makes predictions (..., K) of the student's features (..., D)."""

    def new_heads(self) -> nn.Module:
        """Freshly initialised heads, the teacher's included."""

    def represent(self, batch: Batch) -> tuple[list[Features], list[Features]]:
        """What the student sees of each view, and what the targets of the first views are made from."""

    def objective(self, students: list[Features], teachers: list[Features]) -> Loss:
        """The method's own loss."""

    def target(self, heads: Any, pooled: list[Tensor]) -> list[Tensor]:
        """Targets (B, K), without gradient, from the pooled features (B, D) of each view that has one."""

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        """How badly predictions (B, K), or one for each cell (B, N, K), match the targets (B, K), ()."""


def cross_view(method: JointEmbedding, heads: Any, inputs: Sequence[Tensor], pooled: list[Tensor]) -> Tensor:
    """Each view predicts the targets of the others: the mean comparison over all pairs of different views, ().

    Args:
        method: says what a prediction, a target and their comparison are.
        heads: its own, or other ones like them.
        inputs: features of each view, (B, D), or (B, N, D) where each cell predicts.
        pooled: (B, D) of the first views, what targets are made from.
    """
    targets = method.target(heads, pooled)
    predictions = [heads(x) for x in inputs]
    pairs = [(p, t) for j, t in enumerate(targets) for i, p in enumerate(predictions) if i != j]
    return torch.stack([method.compare(p, t) for p, t in pairs]).mean()
