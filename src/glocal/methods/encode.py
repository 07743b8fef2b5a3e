"""How views pass through a backbone: which together, with which of their patches, and whether it takes them at all.

Which crops share a forward pass, hence BatchNorm statistics, is part of a method's meaning, never of speed.
"""

import math
from collections.abc import Iterable
from dataclasses import replace
from itertools import groupby
from typing import Literal

import torch

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.features import Features, Sequences
from glocal.views import Recipe, View


def encode(encoder: Backbone, views: list[View], group: Literal["view", "size"] = "view") -> list[Features]:
    """Encode each view of a batch.

    Args:
        encoder: a backbone, (B, 3, h, w) -> Features.
        views: V views, of which only the patches `kept` are seen, where a view says so.
        group: "view" forwards each view alone (VICReg, VICRegL, Barlow Twins); "size" concatenates consecutive views of
            one resolution (SwAV, DINO), but not packed ones, whose networks have no statistics of batches.

    Returns:
        One Features per view, in order.
    """
    if group == "view" or any(isinstance(view.pixels, Sequences) for view in views):
        return [encoder(view.pixels, view.kept) for view in views]
    features: list[Features] = []
    for _, run in groupby(views, key=lambda view: (view.pixels.shape[-2:], view.kept is None or view.kept.shape)):
        together = list(run)
        sizes, kept = [len(view.pixels) for view in together], [view.kept for view in together if view.kept is not None]
        joined = encoder(torch.cat([view.pixels for view in together]), torch.cat(kept) if kept else None)
        positions = joined.positions.split(sizes) if joined.positions.ndim == 3 else [joined.positions] * len(together)
        parts = zip(joined.pooled.split(sizes), joined.tokens.split(sizes), positions, strict=True)
        features += [Features(pooled, tokens, where, joined.grid) for pooled, tokens, where in parts]
    return features


def keep_random(view: View, stride: int, share: float) -> View:
    """The view with a random share of its patches, of `stride` pixels a side, the same for the whole batch."""
    batch, _, height, width = view.pixels.shape
    patches = (height // stride) * (width // stride)
    number = max(1, round(share * patches))
    if number == patches:
        return view
    kept = torch.randperm(patches)[:number].to(view.pixels.device, non_blocking=True)
    return replace(view, kept=kept.expand(batch, -1))


def check_drops(encoder: Backbone, share: float, option: str) -> None:
    """Refuse a network that needs all patches, where fewer are asked for, with the option that turns it off."""
    if share < 1 and not encoder.traits.drops_patches:
        raise UsageError(
            f"{encoder.name} cannot leave out patches: choose a plain vision transformer (vit_small_patch16_224),"
            f" or give {option}, with which it sees whole crops"
        )


def check_fits(encoder: Backbone, recipe: Recipe, patches: Iterable[int] = ()) -> None:
    """Refuse crops of a size that the encoder does not take, with the options that fix it and the nearest sizes.

    So it does where one of the `patches` that it is to be given is beyond it, or divides not every crop.
    """
    if recipe.packing:
        if not encoder.traits.packs:
            raise UsageError(
                f"{encoder.name} takes images of one shape: leave out --native, or take --backbone navit_tiny"
            )
        return
    support = recipe.support.views if recipe.support else ()
    sizes = sorted({crop.size for crop in (*recipe.views, *support)}, reverse=True)
    for patch in patches:
        encoder.at(patch)
        if wrong := [size for size in sizes if size % patch]:
            fitting = ", ".join(str(side) for side in encoder.traits.patches if not math.gcd(*sizes) % side)
            raise UsageError(f"--patches {patch} does not divide the crops of {wrong[0]} px; choose from {fitting}")
    for size in sizes:
        if (reason := encoder.refusal(size)) is None:
            continue
        if not encoder.traits.any_size:
            reason = f"{encoder.name} takes images of one size only, not of {size} px"
        below, large = size // encoder.stride * encoder.stride, size == encoder.image_size
        near = dict.fromkeys((below, below + encoder.stride, encoder.image_size))
        fitting = " or ".join(str(side) for side in near if side and encoder.refusal(side) is None)
        options = [f"--{'image' if large else 'small'}-size {fitting}"] if fitting else []
        options += [] if large else ["--small-crops 0"]
        raise UsageError(f"{reason}; set {', or '.join(options)}" if options else f"{reason}; take another --backbone")
