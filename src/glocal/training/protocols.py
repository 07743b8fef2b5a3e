"""What the loop asks of what feeds it, so that it trains on other things than images too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from glocal.views import Batch


class Loader(Protocol):
    """Where batches come from; `glocal.views.ViewLoader` is one."""

    steps_per_epoch: int
    """Batches of an epoch on this process, the same number on all."""

    def epoch(self, epoch: int, start: int = 0, order: Tensor | None = None, /) -> Iterator[Batch]:
        """The batches of an epoch but for the first `start`: the same ones whenever they are asked for.

        Args:
            epoch: which.
            start: how many of its batches to leave out.
            order: sample ids to serve instead of all, shuffled: what an `EpochPlan` of the method says.
        """

    def close(self) -> None:
        """Training is over: stop the workers."""


class Appearance(Protocol):
    """What happens to a batch on its way to the method; `glocal.views.Appearance` is one."""

    def __call__(self, batch: Batch, epoch: int, device: torch.device, /) -> Batch:
        """The batch on that device, finished."""
