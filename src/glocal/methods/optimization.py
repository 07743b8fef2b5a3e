"""How a method's paper optimises it, as data; `glocal.training` builds it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Optimization:
    """An optimiser and its schedule: linear warm-up, then cosine decay, per step.

    Attributes:
        optimizer: "lars", "adamw" or "sgd".
        lr: peak learning rate at a global batch of 256; scaled linearly with the batch.
        weight_decay: not applied to parameters of one dimension (biases, norms).
        warmup_epochs: epochs of linear warm-up (at most a tenth of a shorter run).
        final_lr: learning rate at the end, as a fraction of the peak.
        momentum: of LARS and SGD.
        trust: LARS trust coefficient η.
    """

    optimizer: Literal["lars", "adamw", "sgd"]
    lr: float
    weight_decay: float
    warmup_epochs: float = 10.0
    final_lr: float = 0.001
    momentum: float = 0.9
    trust: float = 0.001
