"""Which crops share a forward pass, hence BatchNorm statistics: part of a method's meaning, never of speed."""

from __future__ import annotations

from dataclasses import replace
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.features import Features
from glocal.views import View


def encode(encoder: Backbone, views: list[View], group: Literal["view", "size"] = "view") -> list[Features]:
    """Encode each view of a batch.

    Args:
        encoder: a backbone, (B, 3, h, w) -> Features.
        views: V views, of which only the patches `kept` are seen, where a view says so.
        group: "view" forwards each view alone (VICReg, VICRegL, Barlow Twins); "size" concatenates consecutive views of
            one resolution (SwAV, DINO).

    Returns:
        One Features per view, in order.
    """
    if group == "view":
        return [_forward(encoder, view.pixels, view.kept) for view in views]
    features: list[Features] = []
    for _, run in groupby(views, key=lambda view: (view.pixels.shape[-2:], view.kept is None or view.kept.shape)):
        together = list(run)
        sizes, kept = [len(view.pixels) for view in together], [view.kept for view in together if view.kept is not None]
        joined = _forward(encoder, torch.cat([view.pixels for view in together]), torch.cat(kept) if kept else None)
        positions = joined.positions.split(sizes) if joined.positions.ndim == 3 else [joined.positions] * len(together)
        parts = zip(joined.pooled.split(sizes), joined.tokens.split(sizes), positions, strict=True)
        features += [Features(pooled, tokens, where, joined.grid) for pooled, tokens, where in parts]
    return features


def keep_random(view: View, stride: int, share: float) -> View:
    """The view with a random share of its patches, the same for the whole batch, drawn from torch's generator.

    Args:
        view: whole.
        stride: side of a patch, pixels.
        share: 1 leaves the view as it is.
    """
    batch, _, height, width = view.pixels.shape
    patches = (height // stride) * (width // stride)
    number = max(1, round(share * patches))
    if number == patches:
        return view
    kept = torch.randperm(patches)[:number].to(view.pixels.device)
    return replace(view, kept=kept.expand(batch, -1))


def check_drops(encoder: Backbone, share: float, option: str) -> None:
    """Refuse a network that needs all patches, where fewer are asked for.

    Raises:
        UsageError: with the option that turns it off.
    """
    if share < 1 and not encoder.traits.drops_patches:
        raise UsageError(
            f"{encoder.name} cannot leave out patches: choose a plain vision transformer (vit_small_patch16_224),"
            f" or give {option}, with which it sees whole crops"
        )


def _forward(encoder: Backbone, pixels: Tensor, kept: Tensor | None) -> Features:
    return encoder(pixels) if kept is None else encoder(pixels, kept)
