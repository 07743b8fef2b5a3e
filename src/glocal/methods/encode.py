"""Which crops share a forward pass, hence BatchNorm statistics: part of a method's meaning, never of speed."""

from __future__ import annotations

from itertools import groupby
from typing import Literal

import torch

from glocal.backbones import Backbone
from glocal.features import Features
from glocal.views import View


def encode(encoder: Backbone, views: list[View], group: Literal["view", "size"] = "view") -> list[Features]:
    """Encode each view of a batch.

    Args:
        encoder: a backbone, (B, 3, h, w) -> Features.
        views: V views of the same B images.
        group: "view" forwards each view alone (VICReg, VICRegL, Barlow Twins); "size" concatenates consecutive views of
            one resolution (SwAV, DINO).

    Returns:
        One Features per view, in order.
    """
    if group == "view":
        return [encoder(view.pixels) for view in views]
    features: list[Features] = []
    for _, run in groupby(views, key=lambda view: view.pixels.shape[-2:]):
        together = list(run)
        joined = encoder(torch.cat([view.pixels for view in together]))
        pooled, tokens = joined.pooled.chunk(len(together)), joined.tokens.chunk(len(together))
        features += [Features(p, t, joined.positions, joined.grid) for p, t in zip(pooled, tokens, strict=True)]
    return features
