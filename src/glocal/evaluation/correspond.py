"""Dense correspondence: does the nearest feature in another view of the same image look at the same place?"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import encode, frozen
from glocal.evaluation.groups import PerImage
from glocal.evaluation.native import native_packing
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over, spread_positions
from glocal.features import Features
from glocal.views import Appearance, Batch, Crop, Recipe, View, ViewLoader, grid_centers

CROP = Crop(0, scale=(0.3, 1.0))
"""How the two views are taken, but for their size: a random box, a flip, colour jitter, grey."""


def two_crops(context: EvalContext, *, images: int, crop: Crop = CROP) -> Iterator[tuple[Batch, Features, Features]]:
    """Two random crops of each of `images` test images, as they were loaded, and their features, batch by batch.

    The crops are a pure function of the context's seed and the image's position.
    """
    encoder: Any = context.encoder
    crop = crop.but(size=context.image_size)
    recipe = Recipe((crop, crop))
    if context.native:
        recipe = recipe.packed((crop.size, crop.size), native_packing(encoder, crop.size))
    source = spread_over(context.test, images)
    size = min(context.batch_size, len(source), 16)  # all pairs of cells are held at once
    settings: dict[str, Any] = {"seed": context.seed, "workers": context.workers, "shuffle": False, "drop_last": False}
    appearance = Appearance(recipe, encoder.mean, encoder.std, context.seed)
    loader = ViewLoader(source, recipe, batch_size=size, appearance=appearance if context.native else None, **settings)
    done = 0
    for batch in loader.epoch(0):
        context.skipped.extend((source.key(i), reason) for i, reason in batch.skipped)
        with frozen(encoder):
            views = appearance(batch, 0, context.device).views
            a, b = (encode(encoder, view.pixels, context.precision) for view in views)
        yield batch, a, b
        done += len(batch.index)
        if context.progress is not None:
            context.progress("two views of each image", done, len(source))


def carry(a: View, b: View, points: Tensor) -> Tensor:
    """Where points of crop a (N, 2) lie in crop b, (B, N, 2) in b's pixels, through the source image."""
    source = a.to_source(points[None])
    away = (source - b.affine[:, None, :, 2]).unsqueeze(-1)
    return torch.linalg.solve(b.affine[:, None, :, :2], away).squeeze(-1)


def match_errors(truth: Tensor, matched: Tensor, cells: Tensor, stride: Tensor) -> tuple[Tensor, Tensor]:
    """How far, in cells, the matches are from the truth, for the V locations whose truth lies in the other crop.

    Args:
        truth: (B, N, 2) where each location of crop a lies in crop b, pixels.
        matched: (B, N) which cell of b its feature matched.
        cells: (M, 2) where b's cells look, pixels.
        stride: (2,) cell size, pixels.

    Returns:
        Euclidean distances (V,), and the fractions (V,) of b's cells that would have been within one cell.
    """
    low, high = cells.amin(0) - stride / 2, cells.amax(0) + stride / 2
    visible = ((truth >= low) & (truth < high)).all(-1)
    where = truth[visible]
    errors = ((cells[matched[visible]] - where) / stride).norm(dim=-1)
    every = torch.cdist(where / stride, cells / stride)
    return errors, (every <= 1 + 1e-4).double().mean(1)


@task(
    needs=set(),
    title="Correspondence",
    main="within_1_cell",
    words={
        "within_1_cell": "matches within one cell",
        "median_error": "median error, cells",
        "chance": "matches within one cell by chance",
    },
    shares={"within_1_cell": "cells", "chance": "cells"},
)
def correspond(context: EvalContext, *, images: int = 500, crop: Crop = CROP) -> dict:
    """How often the nearest dense feature in another augmented crop of the same image is within one cell of the truth.

    A cell's truth is its place in the source image, taken from where the encoder really looks (its cells' positions)
    and, under the keys ending in `_uniform`, from the centres of a uniform grid. Cells that the other crop does not
    show don't count.

    Returns:
        within_1_cell, median_error (cells), chance (of a random match), cells (how many counted); each also `_uniform`.
    """
    found: dict[str, list[tuple[Tensor, Tensor]]] = {"": [], "_uniform": []}
    indices = []
    for batch, fa, fb in two_crops(context, images=images, crop=crop):
        a, b = batch.views
        for i, (seen, other) in enumerate(zip(fa.per_image(), fb.per_image(), strict=True)):
            (tokens, places, grid), (others, other_places, other_grid) = seen, other
            similarity = F.normalize(tokens.float(), dim=-1) @ F.normalize(others.float(), dim=-1).T
            matched = similarity.argmax(-1).cpu()  # where the geometry is, in float64 too, which not all devices have
            assert grid is not None
            assert other_grid is not None
            height, width = b.shapes[i]
            stride = torch.tensor([width / other_grid[1], height / other_grid[0]])
            even, other_even = (
                grid_centers(*cells, *view.shapes[i]).flatten(0, 1) for cells, view in ((grid, a), (other_grid, b))
            )
            one, two = (View(None, view.affine[i : i + 1]) for view in (a, b))
            both = (("", places.to(even), other_places.to(even)), ("_uniform", even, other_even))
            for name, cells, other_cells in both:
                truth = carry(one, two, cells)
                found[name].append(match_errors(truth, matched[None], other_cells, stride))
        indices.append(batch.index.cpu())
    if all(bool((chance == 1).all()) for _, chance in found[""]):
        raise UsageError("correspond: the maps have so few cells that every match is near enough")
    hits = [[float((errors <= 1 + 1e-4).sum()), len(errors)] for errors, _ in found[""]]
    index = spread_positions(len(context.test), images)[torch.cat(indices)]
    context.each = PerImage("within_1_cell", index, np.array(hits))
    result: dict = {}
    for name, parts in found.items():
        errors, chance = (torch.cat([part[k] for part in parts]).double() for k in (0, 1))
        result[f"within_1_cell{name}"] = float((errors <= 1 + 1e-4).double().mean())
        result[f"median_error{name}"] = float(errors.median())
        result[f"chance{name}"] = float(chance.mean())
        result[f"cells{name}"] = len(errors)
    return result
