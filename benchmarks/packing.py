"""Photographs of many shapes: what packing saves over padding, what it costs beside squares, how little it wastes.

On photographs of many shapes (`--photos`), of which only the sides matter here; the generated ones all have one shape.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.measure import DEVICE, Size, compared, interleaved
from benchmarks.photos import photos
from glocal.backbones import build_backbone
from glocal.backbones.navit import PATCH, Rows, within
from glocal.data import open_source
from glocal.features import Sequences
from glocal.views import Packing, Recipe, pack, two_views
from glocal.views.geometry import crop_sizes, draw_boxes, place_boxes
from glocal.views.order import Positions

Shapes = list[tuple[int, int]]


def measure(size: Size, folder: Path | None = None) -> dict[str, Any]:
    """Waste over an epoch, images a second of each way of batching, and of each way of attending."""
    full = size == "full"
    source = open_source(str(folder or photos()))
    shapes = [source.open(i).size for i in range(len(source))]
    sides, tokens = (48, 128), 1024 if full else 128
    batch = min(256, len(shapes) // 2) if full else 4
    wasted = {
        name: waste(shapes, two_views(128).packed(native, Packing(PATCH, tokens)), batch)
        for name, native in (("sides 48–128", sides), ("all of 96 px", (96, 96)))
    }
    recipe = two_views(128).packed(sides, Packing(PATCH, tokens))
    keys = np.arange(64 if full else 6) % len(shapes)
    grids = [grid for grid, _ in epoch_grids(shapes, recipe, keys)]
    arms, images = batches(grids, tokens, "navit_tiny")
    times = interleaved(arms, rounds=5 if full else 1)
    rates = {name: [images[name] / seconds for seconds in times[name]] for name in times}
    each = {name: [seconds / images[name] for seconds in times[name]] for name in times}
    return {
        "sides": sides,
        "tokens": tokens,
        "mean_tokens": float(np.mean([rows * columns for rows, columns in grids])),
        "longest": max(rows * columns for rows, columns in grids),
        "waste": wasted,
        "images_per_second": {name: float(np.median(values)) for name, values in rates.items()},
        "times_padded": compared(each, "packed", "padded")["times_faster"],
        "times_square": compared(each, "packed", "squares")["times_faster"],
        "attention": attention(grids, tokens, 5 if full else 1),
    }


def epoch_grids(shapes: Shapes, recipe: Recipe, keys: np.ndarray) -> list[list[tuple[int, int]]]:
    """Rows and columns of patches of each view of some samples."""
    found = []
    for key, draws in zip(keys.tolist(), draw_boxes(recipe.views, seed=0, epoch=0, samples=keys), strict=True):
        boxes, _ = place_boxes(recipe.views, draws, *shapes[key])
        sizes, _ = crop_sizes(recipe, draws, boxes)
        found.append([(height // PATCH, width // PATCH) for width, height in sizes.tolist()])
    return found


def empty(grids: list[tuple[int, int]], tokens: int) -> Sequences:
    """Photographs without pixels."""
    return pack([torch.zeros(3, PATCH * rows, PATCH * columns) for rows, columns in grids], Packing(PATCH, tokens))


def waste(shapes: Shapes, recipe: Recipe, batch: int) -> float:
    """The share of all places of an epoch's sequences, of both views, that nothing is at."""
    used = places = 0
    for epoch, keys in Positions(len(shapes), len(shapes) // batch, batch, 0, 0, 1, True, recipe=recipe):
        if epoch:
            break
        for grids in zip(*epoch_grids(shapes, recipe, keys), strict=True):
            image = empty(list(grids), recipe.packing.tokens if recipe.packing else 0).image
            used, places = used + int((image >= 0).sum()), places + image.numel()
    return 1 - used / places


def batches(grids: list[tuple[int, int]], tokens: int, name: str) -> tuple[dict[str, Any], dict[str, int]]:
    """A pass forward and backward of each way, of about as many places, and how many images it has.

    Padded, each photograph is computed as if it were as long as the longest, without the mask that would be needed.
    Squares have as many patches in the mean.
    """
    backbone = build_backbone(name).to(DEVICE).train()
    packed = empty(grids, tokens).to(DEVICE)
    lengths = [rows * columns for rows, columns in grids]
    side = int(np.ceil(max(lengths) ** 0.5))
    padded = torch.zeros(max(1, packed.image.numel() // side**2), 3, PATCH * side, PATCH * side, device=DEVICE)
    small = int(np.mean(lengths) ** 0.5)
    large = round(len(grids) * (np.mean(lengths) - small**2) / ((small + 1) ** 2 - small**2))
    numbers = ((len(grids) - large, small), (large, small + 1))
    squares = [torch.zeros(n, 3, PATCH * s, PATCH * s, device=DEVICE) for n, s in numbers if n]

    def step(*inputs: Any) -> None:
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=DEVICE.type == "cuda"):
            for x in inputs:
                backbone(x).pooled.float().square().mean().backward()
        backbone.zero_grad()

    arms = {"packed": lambda: step(packed), "padded": lambda: step(padded), "squares": lambda: step(*squares)}
    return arms, {"packed": len(grids), "padded": len(padded), "squares": len(grids)}


def attention(grids: list[tuple[int, int]], tokens: int, rounds: int) -> dict[str, float]:
    """Seconds of one layer's attention, forward and backward, each photograph within itself."""
    image = empty(grids, tokens).image
    lengths = sorted((rows * columns for rows, columns in grids), reverse=True)
    dtype = torch.bfloat16 if DEVICE.type == "cuda" else torch.float32
    flat = torch.randn(sum(lengths), 3, 3, 64, device=DEVICE, dtype=dtype, requires_grad=True)
    rows_ = torch.randn(*image.shape, 3, 3, 64, device=DEVICE, dtype=dtype, requires_grad=True)
    same = (image[:, None, :, None] == image[:, None, None, :]).to(DEVICE)

    def by_length() -> None:
        within(*flat.unbind(1), Rows(lengths)).float().square().mean().backward()

    def masked() -> None:
        q, k, v = (x.transpose(1, 2) for x in rows_.unbind(2))
        F.scaled_dot_product_attention(q, k, v, attn_mask=same).float().square().mean().backward()

    arms = {"by length": by_length, "masked": masked}
    if DEVICE.type == "cuda":
        arms |= flex(rows_, image.to(DEVICE))
    return {name: float(np.median(times)) for name, times in interleaved(arms, rounds=rounds, least=0.1).items()}


def flex(rows: torch.Tensor, image: torch.Tensor) -> dict[str, Any]:
    """The same by FlexAttention with a mask of blocks, compiled; it needs a GPU to learn by."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    length = image.shape[1]
    together = lambda s, h, q, k: image[s, q] == image[s, k]
    mask = create_block_mask(together, len(image), None, length, length, device=image.device)
    compiled = torch.compile(flex_attention)

    def run() -> None:
        q, k, v = (x.transpose(1, 2) for x in rows.unbind(2))
        compiled(q, k, v, block_mask=mask).float().square().mean().backward()

    return {"flex": run}
