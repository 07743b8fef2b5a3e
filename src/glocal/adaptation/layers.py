"""Which layers of an encoder train: the first ones know what all images have in common."""

import logging
import math
from types import SimpleNamespace
from typing import Literal

from glocal.backbones import Backbone
from glocal.backbones.lora import add_lora
from glocal.training.optimizers import layer_factors

Train = Literal["head", "last", "lora", "all"]

LAST = 0.25
"""Part of the layers that "last" means."""


def depths(encoder: Backbone) -> dict[str, float]:
    """How far each parameter of the timm model that can train is from the end: 0 in the last layer, 1 in the first.

    Layers are timm's own (`group_matcher`); of a network without, all are one.
    """
    names = {parameter: name for name, parameter in encoder.model.named_parameters()}
    logging.getLogger("timm.optim._param_groups").setLevel(logging.ERROR)  # what it says of one layer is for developers
    factors = layer_factors(SimpleNamespace(encoder=encoder), 0.5)  # a power of two, to count with
    found = {names[parameter]: -math.log2(factor) for parameter, factor in factors.items()}
    most = max(found.values(), default=0) or 1
    return {name: far / most for name, far in found.items()}


def choose_layers(encoder: Backbone, train: Train, *, rank: int = 8) -> None:
    """Freeze all that is not to train; of "lora", adapt the rest by low-rank products."""
    if train == "last":
        far = depths(encoder)
        for name, parameter in encoder.model.named_parameters():
            parameter.requires_grad_(far.get(name, 1) < LAST)
    elif train == "lora":
        add_lora(encoder, rank, 2.0 * rank)
    elif train == "head":
        encoder.requires_grad_(False)
