"""What a backbone can do beside encoding whole images of its own size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from glocal.backbones.cells import evaluating
from glocal.backbones.dropping import can_drop
from glocal.errors import UsageError

if TYPE_CHECKING:
    from glocal.backbones.backbone import Backbone


@dataclass(frozen=True)
class Traits:
    """What an architecture can do, learnt by trying.

    Attributes:
        any_size: takes images of other sizes than its own, if perhaps only those that its patches divide.
        drops_patches: can be run on some of an image's patches.
    """

    any_size: bool
    drops_patches: bool


def learn_traits(backbone: Backbone) -> Traits:
    """Try an image that is larger by about a cell."""
    larger = (backbone.image_size // backbone.stride + 1) * backbone.stride
    return Traits(any_size=refusal(backbone, larger) is None, drops_patches=can_drop(backbone.model))


def refusal(backbone: Backbone, size: int) -> str | None:
    """Why a backbone does not take square images of a size, in pixels; None where it does."""
    parameter = next(backbone.parameters())
    try:
        with evaluating(backbone):
            backbone(torch.zeros(1, 3, size, size, device=parameter.device, dtype=parameter.dtype))
    except UsageError as error:
        return str(error).rstrip(".")
    except (AssertionError, RuntimeError) as error:  # of an image of its own size, too small for its layers
        reason = str(error).partition("\n")[0].rstrip(".")
        return f"{backbone.name} does not take {size}×{size} images: {reason}"
    return None
