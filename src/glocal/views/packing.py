"""Images of any shape in sequences of one length: how large each is, what of it is kept, which go together.

Longest first into the first sequence that fits (first fit decreasing), as in NaViT (Dehghani et al. 2023, app. A.3).
"""

import heapq
import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from glocal import random
from glocal.errors import UsageError
from glocal.features import Sequences
from glocal.views.recipe import Packing

Grid = tuple[int, int]
"""Rows and columns of patches."""


def grid_of(width: float, height: float, side: float, patch: int) -> Grid:
    """The grid of an image of this shape that has the area of a square of `side` pixels; one patch at least."""
    root = math.sqrt(width / height)
    return max(1, round(side / root / patch)), max(1, round(side * root / patch))


def fitted(grid: Grid, room: int) -> Grid:
    """The grid, or where it has more than `room` patches one of its shape that has not, as large as whole patches let.

    The shorter side is rounded first, and the other follows it: nothing is widened, however the image lies.
    """
    rows, columns = grid
    if rows * columns <= room:
        return grid
    short, long = sorted(grid)
    side = max(1, int(math.sqrt(room * short / long)))
    along = min(room // side, round(side * long / short))
    return (side, along) if rows <= columns else (along, side)


def kept_patches(patches: int, packing: Packing, *keys: int) -> np.ndarray:
    """Which of an image's patches are kept, ascending (K,): as many of each number of patches, at least one.

    A pure function of `keys`: (seed, epoch, sample, view).
    """
    kept = max(1, round((1 - packing.drop) * patches))
    seed, *others = keys
    return np.sort(random.uniform(seed, "patches", *others, n=patches).argsort(kind="stable")[:kept])


def share_out(lengths: Sequence[float], tokens: int) -> list[list[int]]:
    """Which images (numbers in `lengths`) share a sequence of `tokens` places.

    Longest first, where it first fits; or, if that takes fewer sequences, in the emptiest: of images that are all about
    as long, the longest alone would fill the first ones badly.
    """
    longest = np.argsort(-np.asarray(lengths), kind="stable").tolist()
    together: list[list[int]] = []
    room: list[float] = []
    for i in longest:
        place = next((s for s, left in enumerate(room) if lengths[i] <= left), len(room))
        if place == len(room):
            together.append([])
            room.append(tokens)
        together[place].append(i)
        room[place] -= lengths[i]
    for number in range(math.ceil(sum(lengths) / tokens), len(together)):
        if even := _share_evenly(lengths, longest, number, tokens):
            return even
    return together


def _share_evenly(lengths: Sequence[float], longest: list[int], number: int, tokens: int) -> list[list[int]] | None:
    """The images in that many sequences, each in the emptiest; None where they do not fit."""
    together: list[list[int]] = [[] for _ in range(number)]
    filled = [(0.0, s) for s in range(number)]
    for i in longest:
        before, place = filled[0]
        if before + lengths[i] > tokens:
            return None
        together[place].append(i)
        heapq.heapreplace(filled, (before + lengths[i], place))
    return together


def pack(
    images: Sequence[Tensor],
    packing: Packing,
    kept: Sequence[np.ndarray] | None = None,
) -> Sequences:
    """Sequences of images (3, h, w), normalised, of whole patches; none of more than `packing.tokens` that are kept.

    Args:
        images: B of them.
        packing: says how large patches and how long sequences are.
        kept: of each image the numbers of the patches to keep, row by row; None: all.

    Raises:
        UsageError: if there are none, or one is not of whole patches or has too many of them.
    """
    patch = packing.patch
    if not len(images):
        raise UsageError("no images to pack")
    for n, image in enumerate(images):
        if image.shape[1] % patch or image.shape[2] % patch:
            raise UsageError(f"image {n} has {image.shape[2]}×{image.shape[1]} pixels, no whole patches of {patch}")
    grids = [(image.shape[1] // patch, image.shape[2] // patch) for image in images]
    kept = [np.arange(rows * columns) for rows, columns in grids] if kept is None else kept
    if (most := max(map(len, kept))) > packing.tokens:
        raise UsageError(f"an image has {most} patches, and a sequence {packing.tokens} places: make it smaller")
    together = share_out([len(k) for k in kept], packing.tokens)
    shape = len(together), packing.tokens
    patches = torch.zeros(*shape, 3 * patch**2)
    image = torch.full(shape, -1)
    positions = torch.zeros(*shape, 2, dtype=torch.int64)
    for sequence, members in enumerate(together):
        start = 0
        for i in members:
            numbers = torch.from_numpy(kept[i])
            place = slice(start, start := start + len(numbers))
            cut = images[i].unflatten(2, (-1, patch)).unflatten(1, (-1, patch)).permute(1, 3, 2, 4, 0)
            patches[sequence, place] = cut.flatten(0, 1).flatten(1)[numbers]
            image[sequence, place] = i
            positions[sequence, place, 0] = numbers % grids[i][1]
            positions[sequence, place, 1] = numbers // grids[i][1]
    return Sequences(patches, image, positions, torch.tensor(grids))
