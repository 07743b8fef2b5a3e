"""What an encoder sees in a picture: pixels, made from nothing, until it sees the same (Mahendran & Vedaldi 2015)."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.generation.likeness import Likeness
from glocal.progress import Progress

VARIATION = 0.2
"""Weight of the total variation."""
LEVELS = 6
"""Of the pyramid whose sum pixels are: coarse shapes are found first, and noise last."""
SHIFT = 1 / 8
"""By how much of a side both pictures are shifted at most, so that an encoder's grid leaves no pattern."""


@dataclass(frozen=True)
class Seen:
    """Pixels (3, h, w) in [0, 1], and how far they still are from the picture, see `Likeness`."""

    pixels: Tensor
    distance: float


def seen(
    encoder: Any,
    picture: Tensor,
    *,
    dense: bool = False,
    steps: int = 200,
    lr: float = 0.05,
    seed: int = 0,
    progress: Progress | None = None,
) -> Seen:
    """The pixels that an encoder sees as it sees a picture.

    min over x of dist(φ(shift(x)), φ(shift(picture))) + total variation of x, by Adam from noise about grey; what the
    encoder has not kept of the picture, the result leaves open.

    Args:
        encoder: as for `Likeness`.
        picture: (3, h, w) RGB in [0, 1], on the encoder's device.
        dense: see it place by place, in place of the pooled features.
        steps: of Adam.
        lr: its learning rate at the start; it falls to 0 along half a cosine.
        seed: of the noise and the shifts.
        progress: called as progress(what, done, total).
    """
    like, (height, width) = Likeness(encoder, picture, dense=dense), picture.shape[1:]
    generator = torch.Generator().manual_seed(random.derive(seed, "pixels"))
    sides = [(max(1, height >> k), max(1, width >> k)) for k in range(LEVELS)]
    levels = [0.1 * torch.randn(1, 3, *side, generator=generator) for side in sides]
    levels = [level.to(picture.device).requires_grad_() for level in levels]
    optimizer = torch.optim.Adam(levels, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    most = (int(SHIFT * height), int(SHIFT * width))
    for step in range(steps):
        down, right = (int(u * (m + 1)) for u, m in zip(random.uniform(seed, "shift", step, n=2), most, strict=True))
        crop = lambda x, at=(down, right): _shifted(x[None], most, at)
        with torch.no_grad():
            wanted = like.features(crop(picture))
        pixels = _assembled(levels)
        loss = like.between(like.features(crop(pixels)), wanted)[0] + VARIATION * total_variation(pixels)
        for level, gradient in zip(levels, torch.autograd.grad(loss, levels), strict=True):
            level.grad = gradient
        optimizer.step()
        schedule.step()
        if progress is not None:
            progress("pixels", step + 1, steps)
    with torch.no_grad():
        pixels = _assembled(levels)
        return Seen(pixels, float(like(pixels[None])))


def _assembled(levels: list[Tensor]) -> Tensor:
    """Pixels (3, h, w) in [0, 1] of the levels of a pyramid (1, 3, h/2^k, w/2^k)."""
    size = levels[0].shape[2:]
    return torch.stack([F.interpolate(x, size, mode="bilinear") for x in levels]).sum(0)[0].sigmoid()


def total_variation(x: Tensor) -> Tensor:
    """Mean length of the gradient of pixels (..., h, w), by forward differences."""
    down, right = x[..., 1:, :-1] - x[..., :-1, :-1], x[..., :-1, 1:] - x[..., :-1, :-1]
    return (down.square() + right.square() + 1e-8).sqrt().mean()


def _shifted(x: Tensor, most: tuple[int, int], at: tuple[int, int]) -> Tensor:
    """Images of the same size as (1, 3, h, w), shifted by at − most/2, mirrored beyond their edges."""
    (tall, wide), (height, width) = most, x.shape[2:]
    padded = F.pad(x, (wide - wide // 2, wide // 2, tall - tall // 2, tall // 2), mode="reflect")
    return padded[..., at[0] : at[0] + height, at[1] : at[1] + width]
