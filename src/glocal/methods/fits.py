"""Whether a backbone can train on a method's views, asked before any image is read."""

from __future__ import annotations

from glocal.backbones import Backbone
from glocal.backbones.traits import refusal
from glocal.errors import UsageError
from glocal.views import Recipe


def check_fits(encoder: Backbone, recipe: Recipe) -> None:
    """Refuse crops of a size that the encoder does not take; each size is tried once.

    Raises:
        UsageError: with the options that fix it, and the nearest sizes that it takes.
    """
    support = recipe.support.views if recipe.support else ()
    for size in sorted({crop.size for crop in (*recipe.views, *support)}, reverse=True):
        if (reason := refusal(encoder, size)) is None:
            continue
        if not encoder.traits.any_size:
            reason = f"{encoder.name} takes images of one size only, not of {size} px"
        below, large = size // encoder.stride * encoder.stride, size == encoder.image_size
        near = dict.fromkeys((below, below + encoder.stride, encoder.image_size))
        fitting = " or ".join(str(side) for side in near if side and refusal(encoder, side) is None)
        options = [f"--{'image' if large else 'small'}-size {fitting}"] if fitting else []
        options += [] if large else ["--small-crops 0"]
        raise UsageError(f"{reason}; set {', or '.join(options)}" if options else f"{reason}; take another --backbone")
