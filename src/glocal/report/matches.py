"""Matches between two crops of one photograph whose geometry is known, and whether each is right."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from glocal.data.source import ImageSource, Unreadable
from glocal.evaluation.correspond import carry
from glocal.report.visuals import features_of
from glocal.views import View

LARGE, SMALL, APART = 0.8, 0.6, 0.2
"""Sides of the two crops and the distance of their centres along each axis, in short sides of the photograph."""


@dataclass(frozen=True)
class PhotographMatches:
    """Two square crops of the photograph that the source calls `key`, and what cells of the first match in the second.

    Attributes:
        start: (M, 2) where each matched cell of the first crop looks, (x, y) in its pixels.
        end: (M, 2) where its nearest cell of the second crop looks, in that crop's pixels.
        hits: (M,) bool, whether that is within one cell of the same spot of the photograph.
    """

    crops: tuple[Image.Image, Image.Image]
    key: str
    start: np.ndarray
    end: np.ndarray
    hits: np.ndarray


def crop_pair(size: tuple[int, int], side: int, *, flip: bool) -> tuple[View, View]:
    """Two overlapping square crops of a photograph of `size` (width, height), as views without pixels: a large one,
    and a small one further right and down, mirrored when `flip`."""
    short = min(size)
    views = []
    for fraction, shift, mirrored in ((LARGE, -APART / 2, False), (SMALL, APART / 2, flip)):
        extent = fraction * short
        left, top = (length / 2 + shift * short - extent / 2 for length in size)
        scale = extent / side
        row = [-scale, 0.0, left + extent] if mirrored else [scale, 0.0, left]
        views.append(View(torch.empty(1, 3, side, side, dtype=torch.uint8), torch.tensor([[row, [0.0, scale, top]]])))
    return views[0], views[1]


def take(image: Image.Image, size: tuple[int, int], view: View) -> Image.Image:
    """The crop of a view (upright, mirrored or not), from an image decoded at any resolution of a source of `size`."""
    side = view.pixels.shape[-1]
    (a, _, x), (_, d, y) = view.affine[0].tolist()
    across, down = image.width / size[0], image.height / size[1]
    left, right = sorted((x * across, (x + a * side) * across))
    # Rounding may put a corner a hair outside of the image.
    box = (max(left, 0.0), max(y * down, 0.0), min(right, image.width), min((y + d * side) * down, image.height))
    crop = image.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if a < 0 else crop


def match(dense: Tensor, cells: Tensor, a: View, b: View) -> tuple[Tensor, Tensor, Tensor]:
    """Nearest cells of `b` by cosine, from each cell of `a` that `b` also shows; counted as task `correspond` does.

    Args:
        dense: (2, D, H, W) features of the two crops.
        cells: (H·W, 2) where each cell looks, in crop pixels.
        a: the first crop, a batch of one.
        b: the second.

    Returns:
        start (M, 2), end (M, 2) and hits (M,), as in `PhotographMatches`.
    """
    height, width = dense.shape[-2:]
    side_h, side_w = b.pixels.shape[-2:]
    stride = torch.tensor([side_w / width, side_h / height])
    truth = carry(a, b, cells)[0]
    visible = ((truth >= cells.amin(0) - stride / 2) & (truth < cells.amax(0) + stride / 2)).all(-1)
    from_a, from_b = F.normalize(dense.float(), dim=1).flatten(2).transpose(1, 2)
    end = cells[(from_a[visible] @ from_b.T).argmax(1)]
    hits = ((end - truth[visible]) / stride).norm(dim=-1) <= 1 + 1e-4
    return cells[visible], end, hits


def match_photographs(
    encoder: nn.Module, source: ImageSource, indices: list[int], side: int, count: int
) -> list[PhotographMatches]:
    """Matches in up to `count` photographs, tried in the order of `indices`; every other second crop is mirrored."""
    found: list[PhotographMatches] = []
    for i in indices:
        if len(found) == count:
            break
        try:
            opened = source.open(i)
            image = Image.fromarray(opened.decode(min(1.0, side / (SMALL * min(opened.size)))))
        except Unreadable:
            continue
        a, b = crop_pair(opened.size, side, flip=len(found) % 2 == 1)
        crops = (take(image, opened.size, a), take(image, opened.size, b))
        features = next(features_of(encoder, list(crops)))
        positions = features.positions if features.positions.ndim == 2 else features.positions[0]
        start, end, hits = match(features.dense.float().cpu(), positions.float().cpu(), a, b)
        found.append(PhotographMatches(crops, source.key(i), start.numpy(), end.numpy(), hits.numpy()))
    return found
