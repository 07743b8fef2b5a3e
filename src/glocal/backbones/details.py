"""What a backbone costs and can do, measured here, in a line."""

import statistics
import time
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from glocal.backbones.backbone import Backbone
from glocal.backbones.build import build_backbone
from glocal.backbones.cells import evaluating
from glocal.backbones.traits import Traits
from glocal.devices import best_accelerator

LARGEST = 1e9
"""Parameters beyond which a network is not built to be timed."""
SECONDS = 0.3
"""How long it is timed, at least; a slow one for a pass."""


@dataclass(frozen=True)
class Details:
    """What `glocal backbones --details` says of a backbone.

    Attributes:
        name: of the backbone.
        parameters: their number.
        flops: of one image of `image_size`, forward; a multiplication and an addition are two.
        images_per_second: of that size, forward, in float32, on this machine; None: too large to try.
        image_size: side in pixels of the images it was made for.
        dim, stride: see `Backbone`.
        traits: what it can do.
    """

    name: str
    parameters: int
    flops: int
    images_per_second: float | None
    image_size: int
    dim: int
    stride: int
    traits: Traits

    def cells(self) -> list[str]:
        """As text, under the headings `HEAD`."""
        speed = "–" if self.images_per_second is None else f"{self.images_per_second:,.3g}"
        numbers = [f"{self.parameters / 1e6:,.1f} M", f"{self.flops / 1e9:,.1f} G", speed]
        return [self.name, *numbers, *map(str, (self.image_size, self.stride, self.dim)), in_words(self.traits)]


HEAD = ["name", "parameters", "FLOPs", "images/s", "px", "stride", "width", "what it can do"]


def in_words(traits: Traits) -> str:
    """What an architecture can do, as a person reads it."""
    can = {
        "any size": traits.any_size,
        "drops patches": traits.drops_patches,
        "packs": traits.packs,
        "any patch": bool(traits.patches),
        "class token": traits.class_token,
    }
    words = [word for word, is_so in can.items() if is_so]
    field, weights = traits.receptive_field, traits.weights
    words += ["one size"] * (not traits.any_size) + [f"sees {field} px"] * (field is not None)
    more = [f"and {len(weights) - 3} others"] * (len(weights) > 3)
    return ", ".join([*words, *[f"weights: {' '.join([*weights[:3], *more])}"] * bool(weights)])


def describe(name: str) -> Details:
    """Build a backbone, count, time and ask it.

    Counting happens without memory, on the meta device, where it takes no time however large the network.

    Raises:
        UsageError: as of `build_backbone`.
    """
    with torch.device("meta"):
        empty = build_backbone(name)
        parameters = sum(parameter.numel() for parameter in empty.model.parameters())
        flops = count_flops(empty)
    if parameters > LARGEST:
        return _details(empty, parameters, flops, None)
    with torch.random.fork_rng(devices=[]):
        backbone = build_backbone(name)
    return _details(backbone, parameters, flops, speed(backbone.to(best_accelerator())))


def _details(backbone: Backbone, parameters: int, flops: int, images_per_second: float | None) -> Details:
    sizes = backbone.image_size, backbone.dim, backbone.stride
    return Details(backbone.name, parameters, flops, images_per_second, *sizes, backbone.traits)


def count_flops(backbone: Backbone) -> int:
    """Of one image of the backbone's size, forward."""
    with evaluating(backbone), FlopCounterMode(display=False) as counter:
        backbone(_images(backbone, 1))
    return counter.get_total_flops()


def speed(backbone: Backbone) -> float:
    """Images of the backbone's size a second, forward: of one at once or of eight, if that does not take long."""
    with evaluating(backbone):
        one = _seconds(backbone, 1)
        return max(1 / one, 8 / _seconds(backbone, 8) if 8 * one < SECONDS else 0)


def _seconds(backbone: Backbone, batch: int) -> float:
    """Of a pass: the median over some after the first, which alone counts where it is slow."""
    images, took = _images(backbone, batch), list[float]()
    while not took or (took[0] < SECONDS and sum(took[1:]) < SECONDS):
        started = time.perf_counter()
        backbone(images).pooled.sum().item()  # waits for the device
        took.append(time.perf_counter() - started)
    return statistics.median(took[1:] or took)


def _images(backbone: Backbone, batch: int) -> torch.Tensor:
    side = backbone.image_size
    return next(backbone.parameters()).new_zeros(batch, 3, side, side)
