"""Crop boxes as a pure function of (seed, epoch, sample, view), and cutting all of them out of one decode."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from glocal import random
from glocal.views.recipe import Crop

if TYPE_CHECKING:
    from glocal.data.source import OpenImage

TRIES = 10


def sample_boxes(
    crops: Sequence[Crop], width: int, height: int, *, seed: int, epoch: int, sample: int
) -> tuple[np.ndarray, np.ndarray]:
    """The random resized crops of one image, all views at once.

    torchvision's `RandomResizedCrop`, but with continuous boxes instead of whole-pixel ones: area fraction uniform in
    `scale`, aspect ratio log-uniform in `ratio`, ten tries to fit inside the image, else the largest central box of an
    allowed aspect.

    Args:
        crops: V crops.
        width: of the image, source pixels.
        height: of the image, source pixels.
        seed: the run's seed.
        epoch: 0, 1, ...
        sample: position of the image in its source.

    Returns:
        boxes (V, 4) float64, (left, top, right, bottom) in source pixels; flips (V,) bool.
    """
    u = random.uniform(seed, "crop", epoch, sample, np.arange(len(crops)), n=2 * TRIES + 3)
    flips = u[:, 0] < np.array([crop.flip for crop in crops])
    scale = np.array([crop.scale for crop in crops])
    ratio = np.array([crop.ratio for crop in crops])
    size = fit(u[:, 3 : 3 + TRIES], u[:, 3 + TRIES :], scale, ratio, width, height)
    tried_all = np.isnan(size[:, :1])
    size = np.where(tried_all, central(ratio, width, height), size)
    room = np.array([width, height]) - size
    corner = np.where(tried_all, 0.5, u[:, 1:3]) * room
    return np.concatenate([corner, corner + size], axis=1), flips


def fit(
    u_area: np.ndarray, u_ratio: np.ndarray, scale: np.ndarray, ratio: np.ndarray, width: int, height: int
) -> np.ndarray:
    """(V, 2) width and height of the first of the tries (V, T) that fits inside the image; NaN where none does."""
    area = width * height * (scale[:, :1] + u_area * (scale[:, 1:] - scale[:, :1]))
    low, high = np.log(ratio[:, :1]), np.log(ratio[:, 1:])
    root = np.exp(0.5 * (low + u_ratio * (high - low)))
    side = np.sqrt(area)
    tries = np.stack([side * root, side / root], axis=-1)
    fits = (tries[..., 0] <= width) & (tries[..., 1] <= height)
    first = tries[np.arange(len(tries)), fits.argmax(axis=1)]
    return np.where(fits.any(axis=1, keepdims=True), first, np.nan)


def central(ratio: np.ndarray, width: int, height: int) -> np.ndarray:
    """(V, 2) width and height of the largest box inside the image with an aspect ratio in `ratio` (V, 2)."""
    aspect = np.clip(width / height, ratio[:, 0], ratio[:, 1])
    return np.stack([np.minimum(width, height * aspect), np.minimum(height, width / aspect)], axis=1)


def crop_affine(box: np.ndarray, flip: bool, size: int) -> np.ndarray:
    """The map (2, 3) from pixels of a `size`×`size` crop to source pixels, for `box` (left, top, right, bottom)."""
    left, top, right, bottom = box
    x = (right - left) / size
    y = (bottom - top) / size
    return np.array([[-x, 0, right] if flip else [x, 0, left], [0, y, top]], dtype=np.float32)


def cut(image: OpenImage, boxes: np.ndarray, flips: np.ndarray, sizes: Sequence[int]) -> list[np.ndarray]:
    """Crops of one image, all from one decode at the smallest resolution that the most magnified of them needs.

    Args:
        image: header read, pixels not.
        boxes: (V, 4) in source pixels.
        flips: (V,) bool.
        sizes: V output sides in pixels.

    Returns:
        V arrays (size, size, 3) uint8, bicubic with anti-aliasing.

    Raises:
        Unreadable: if the image cannot be decoded.
    """
    shortest = np.minimum(boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1])
    decoded = image.decode(scale=float(np.max(np.minimum(1, np.asarray(sizes) / shortest))))
    shrink = reduction(image.size, decoded.size)
    inside = np.minimum(boxes * np.tile(shrink, 2), np.tile(decoded.size, 2))  # rounding may step over the border
    crops = []
    for box, flip, size in zip(inside.tolist(), flips, sizes, strict=True):
        crop = decoded.resize((size, size), Image.Resampling.BICUBIC, box=box)
        crops.append(np.asarray(crop.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if flip else crop))
    return crops


def reduction(full: tuple[int, int], decoded: tuple[int, int]) -> tuple[float, float]:
    """How many decoded pixels one source pixel is, (x, y).

    A JPEG decoded at 1/2, 1/4 or 1/8 has ceil(side/2), ... pixels that each stand for exactly 2, ... source pixels: the
    last one may reach beyond the image, so the ratio of the sides would be slightly off.
    """
    for power in (2, 4, 8):
        if decoded == (-(-full[0] // power), -(-full[1] // power)):
            return 1 / power, 1 / power
    return decoded[0] / full[0], decoded[1] / full[1]
