"""Which layers of an encoder train, and how fast: the first ones know what all images have in common."""

import logging
import math
from typing import Literal

from glocal.backbones import Backbone
from glocal.backbones.lora import add_lora

Train = Literal["head", "last", "lora", "all"]

LAST = 0.25
"""Part of the layers that "last" means."""
LAYERS = 12
"""Layers over which a decay is published (BEiT, Bao et al. 2022): deeper networks fall by as much from end to end."""


def depths(encoder: Backbone) -> dict[str, float]:
    """How far each parameter of the timm model that can train is from the end: 0 in the last layer, 1 in the first.

    Layers are timm's own (`group_matcher`); of a network without, all are one.
    """
    from timm.optim import param_groups_layer_decay

    names = {id(parameter): name for name, parameter in encoder.model.named_parameters()}
    logging.getLogger("timm.optim._param_groups").setLevel(logging.ERROR)  # what it says of one layer is for developers
    found: dict[str, float] = {}
    for group in param_groups_layer_decay(encoder.model, layer_decay=0.5):  # a power of two, to count with
        found |= {names[id(parameter)]: -math.log2(group["lr_scale"]) for parameter in group["params"]}
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


def layer_rates(encoder: Backbone, decay: float) -> dict[str, float]:
    """Factor on the learning rate of each parameter, by its name in a method: `decay` per layer from the end."""
    if decay == 1:
        return {}
    return {f"encoder.model.{name}": decay ** (LAYERS * far) for name, far in depths(encoder).items()}
