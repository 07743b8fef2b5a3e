"""Crop boxes as a pure function of (seed, epoch, sample, view), and cutting all of them out of one decode."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn.functional import interpolate

from glocal import random
from glocal.views.packing import fitted, grid_of
from glocal.views.recipe import Crop, Recipe

TRIES = 10


def draw_boxes(crops: Sequence[Crop], *, seed: int, epoch: int, samples: np.ndarray) -> np.ndarray:
    """(B, V, 2·`TRIES` + 4) uniform numbers, what boxes and sizes are made of, for the V crops of B samples."""
    views = np.arange(len(crops))
    return random.uniform(seed, "crop", epoch, np.asarray(samples)[:, None], views, n=2 * TRIES + 4)


def place_boxes(crops: Sequence[Crop], draws: np.ndarray, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    """The random resized crops of one image of `width`×`height` source pixels, all views at once.

    torchvision's `RandomResizedCrop`, but with continuous boxes instead of whole-pixel ones: area fraction uniform in
    `scale`, aspect ratio log-uniform in `ratio`, ten tries to fit inside the image, else the largest central box of an
    allowed aspect. `draws` (V, 2·`TRIES` + 4) are those of one sample (`draw_boxes`). For a native crop all is as if
    the image were square.

    Returns:
        boxes (V, 4) float64, (left, top, right, bottom) in source pixels; flips (V,) bool.
    """
    boxes, flips = [], []
    # plain floats: arrays of two would take ten times as long
    for crop, (flip, x, y, *tries, _) in zip(crops, draws.tolist(), strict=True):
        flips.append(flip < crop.flip)
        across, down = (1, 1) if crop.native else (width, height)
        size = _fit(crop, tries, across, down)
        if size is None:
            size, x, y = _central(crop, across, down), 0.5, 0.5
        left, top = x * (across - size[0]), y * (down - size[1])
        box = left, top, left + size[0], top + size[1]
        boxes.append((box[0] * width, box[1] * height, box[2] * width, box[3] * height) if crop.native else box)
    return np.array(boxes), np.array(flips)


def crop_sizes(recipe: Recipe, draws: np.ndarray, boxes: np.ndarray) -> tuple[np.ndarray, int]:
    """(V, 2) int64, width and height in pixels that the boxes (V, 4) of one sample are resized to.

    Native ones are of whole patches; also given is how many of them had to be smaller than drawn, to fit a sequence.
    """
    if recipe.packing is None:
        return np.array([(crop.size, crop.size) for crop in recipe.views]), 0
    patch, room, sizes, shrunk = recipe.packing.patch, recipe.packing.room, [], 0
    sides = native_sides(recipe.views, draws)
    for side, (left, top, right, bottom) in zip(sides.tolist(), boxes.tolist(), strict=True):
        wanted = grid_of(right - left, bottom - top, side, patch)
        rows, columns = fitted(wanted, room)
        shrunk += (rows, columns) != wanted
        sizes.append((columns * patch, rows * patch))
    return np.array(sizes), shrunk


def native_sides(crops: Sequence[Crop], draws: np.ndarray) -> np.ndarray:
    """(..., V) the roots of the areas, in pixels, that native crops are resized to."""
    least, most = np.array([crop.native for crop in crops]).T
    return least + draws[..., -1] * (most - least)


def _fit(crop: Crop, tries: Sequence[float], width: int, height: int) -> tuple[float, float] | None:
    """Width and height of the first of the tries (areas, then aspect ratios) that fits inside the image."""
    (small, large), (low, high) = crop.scale, (math.log(r) for r in crop.ratio)
    for u_area, u_ratio in zip(tries[:TRIES], tries[TRIES:], strict=True):
        side = math.sqrt(width * height * (small + u_area * (large - small)))
        root = math.exp(0.5 * (low + u_ratio * (high - low)))
        if side * root <= width and side / root <= height:
            return side * root, side / root
    return None


def _central(crop: Crop, width: int, height: int) -> tuple[float, float]:
    """Width and height of the largest box inside the image with an allowed aspect ratio."""
    aspect = min(max(width / height, crop.ratio[0]), crop.ratio[1])
    return min(width, height * aspect), min(height, width / aspect)


def magnification(crops: Sequence[Crop], width: int, height: int) -> float:
    """The resolution, as a share of the source's and at most 1, that the most magnified of all possible crops needs."""
    needed = 0.0
    for crop in crops:
        if crop.native:
            needed = max(needed, crop.native[1] / max(1.0, math.sqrt(crop.scale[0] * width * height)))
            continue
        longer = max(*crop.ratio, *(1 / r for r in crop.ratio))
        smallest = math.sqrt(crop.scale[0] * width * height / longer)  # the short side of a box that fits
        needed = max(needed, crop.size / max(1.0, min(smallest, *_central(crop, width, height))))
    return min(1.0, needed)


def crop_affine(box: np.ndarray, flip: bool, size: Sequence[int]) -> np.ndarray:
    """The map (2, 3) from pixels of a crop of `size` (w, h) to source pixels, for `box` (left, top, right, bottom)."""
    left, top, right, bottom = box
    x, y = (right - left) / size[0], (bottom - top) / size[1]
    return np.array([[-x, 0, right] if flip else [x, 0, left], [0, y, top]], dtype=np.float32)


def needed_scale(boxes: np.ndarray, sizes: np.ndarray) -> float:
    """The smallest resolution, as a share of the source's, at which none of the crops has to be magnified.

    Of boxes (V, 4) and the sizes (V, 2), width and height, that they are resized to.
    """
    return float(np.max(np.minimum(1, sizes / (boxes[:, 2:] - boxes[:, :2]))))


def whole_boxes(boxes: np.ndarray, shrink: tuple[float, float], width: int, height: int) -> np.ndarray:
    """Boxes (V, 4) of the source as the nearest whole pixels of a decode of `width`×`height`, int64.

    That moves an edge by half a decoded pixel at most, as torchvision's whole-pixel boxes do, and the map to the source
    is made from the result, hence exact.
    """
    inside = np.rint(boxes * np.array((*shrink, *shrink))).astype(np.int64)
    limit = np.array([width, height])
    inside[:, :2] = inside[:, :2].clip(0, limit - 1)
    inside[:, 2:] = np.maximum(inside[:, 2:].clip(0, limit), inside[:, :2] + 1)
    return inside


def crop_boxes(pixels: Tensor, boxes: np.ndarray, sizes: np.ndarray) -> list[Tensor]:
    """Crops out of one image, bicubic with anti-aliasing, as `torchvision.transforms.v2.functional.resized_crop`.

    From `pixels` (h, w, 3) uint8 and `boxes` (V, 4) of whole ones to V tensors (height, width, 3) uint8, of `sizes`
    (V, 2), width and height.
    """
    return [
        resize(pixels[top:bottom, left:right], height, width)
        for (left, top, right, bottom), (width, height) in zip(boxes.tolist(), sizes.tolist(), strict=True)
    ]


def resize(pixels: Tensor, height: int, width: int) -> Tensor:
    """(h, w, 3) uint8 → (height, width, 3) uint8, bicubic with anti-aliasing (torch's, 2 to 4 times Pillow's speed)."""
    if pixels.shape[:2] == (height, width):  # which bicubic filtering would not change
        return pixels
    image = pixels.permute(2, 0, 1)[None]
    resized = interpolate(image, (height, width), mode="bicubic", antialias=True, align_corners=False)
    return resized[0].permute(1, 2, 0)


def reduction(full: tuple[int, int], decoded: tuple[int, int]) -> tuple[float, float]:
    """How many decoded pixels one source pixel is, (x, y).

    A JPEG decoded at 1/2, 1/4 or 1/8 has ceil(side/2), ... pixels that each stand for exactly 2, ... source pixels: the
    last one may reach beyond the image, so the ratio of the sides would be slightly off.
    """
    for power in (2, 4, 8):
        if decoded == (-(-full[0] // power), -(-full[1] // power)):
            return 1 / power, 1 / power
    return decoded[0] / full[0], decoded[1] / full[1]
