"""What papers say beside the method itself, as data: how it is optimised, and options for kinds of runs."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Preset = Callable[[int], dict[str, Any]]
"""Batch size, over all processes -> options of a method's constructor."""


def width_for(batch: int) -> int:
    """A width of embeddings that a batch can decorrelate: eight times the batch, from 256 to the published 8192.

    The covariance of B samples has rank B − 1, so with unit variances Σ_{i≠j} C²_ij / D is at least D/(B − 1) − 1,
    whatever the encoder does. At the published 8192 and a batch of 64 that floor (129 a view) is far above the 25 that
    the variance term can pay: VICReg's optimum is then a shrunken embedding, of standard deviation .29. At 8·B: .76.
    """
    width = 256
    while width < min(8192, 8 * batch):
        width *= 2
    return width


@dataclass(frozen=True)
class Optimization:
    """An optimiser and its schedule: linear warm-up, then cosine decay, per step.

    Attributes:
        optimizer: "lars", "adamw" or "sgd".
        lr: peak learning rate at a global batch of 256; scaled linearly with the batch.
        weight_decay: not applied to parameters of one dimension (biases, norms).
        warmup_epochs: epochs of linear warm-up (at most the share `early` of a shorter run).
        final_lr: learning rate at the end, as a fraction of the peak.
        momentum: of LARS and SGD; of AdamW that of the gradient, its first β.
        beta2: of AdamW, that of the squared gradient.
        trust_coefficient: η of LARS.
        bias_lr_scale: learning rate of parameters of one dimension, as a fraction of the others'.
        final_weight_decay: weight decay at the end of a cosine over the run; None for a constant one.
        clip: largest norm of the whole gradient; 0 for none.
        clip_per_parameter: largest gradient norm of each parameter by itself; 0 for none.
        stretch: the schedules are those of a run this many times as long, cut off.
        frozen: beginning of parameters' names -> epochs (at most `early` of the run) before they start to move.
        no_momentum: beginnings of names of parameters that LARS and SGD move without momentum.
        no_decay: beginnings of names of parameters that are treated as if they had one dimension.
        lr_of: beginning of parameters' names -> factor on their learning rate; the longest beginning counts.
        constant: beginnings of names of parameters whose learning rate follows no schedule.
        warmed: beginnings of names of parameters whose rate warms up; of others it begins at the peak.
        early: largest share of a run that warm-up takes, and that parameters are frozen for.
        layer_decay: factor on the learning rate of each layer of the encoder against that of the layer above it.
    """

    optimizer: Literal["lars", "adamw", "sgd"]
    lr: float
    weight_decay: float
    warmup_epochs: float = 10.0
    final_lr: float = 0.001
    momentum: float = 0.9
    beta2: float = 0.999
    trust_coefficient: float = 0.001
    bias_lr_scale: float = 1.0
    final_weight_decay: float | None = None
    clip: float = 0.0
    clip_per_parameter: float = 0.0
    stretch: float = 1.0
    frozen: Mapping[str, float] = field(default_factory=dict)
    no_momentum: tuple[str, ...] = ()
    no_decay: tuple[str, ...] = ()
    lr_of: Mapping[str, float] = field(default_factory=dict)
    constant: tuple[str, ...] = ()
    early: float = 0.1
    layer_decay: float = 1.0
    warmed: tuple[str, ...] = ("",)


def suited_to(norm: Literal["batch", "layer"], published: Optimization) -> Optimization:
    """The published optimisation for networks with BatchNorm; for LayerNorm AdamW, as papers on transformers.

    What stands still at first, what is not decayed and where the rate ends are the method's, whatever the network.
    """
    if norm == "batch":
        return published
    kept: dict[str, Any] = {"final_lr": published.final_lr, "frozen": published.frozen, "no_decay": published.no_decay}
    return Optimization("adamw", lr=5e-4, weight_decay=0.05, **kept)
