"""How alike an image's own locations are, and whether that goes with how alike its two views are."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.correspond import CROP, two_crops
from glocal.evaluation.registry import task
from glocal.views import Crop


def similarity_of_cells(tokens: Tensor) -> Tensor:
    """Mean cosine similarity (B,) between different locations of the same image, tokens (B, N, D), N ≥ 2."""
    count = tokens.shape[1]
    unit = F.normalize(tokens.float(), dim=2)
    return (unit.sum(1).square().sum(1) - unit.square().sum((1, 2))) / (count * (count - 1))


def pearson(a: Tensor, b: Tensor) -> float | None:
    """Pearson's r of two (N,); None where one of them does not vary."""
    a, b = a.double() - a.double().mean(), b.double() - b.double().mean()
    norm = a.norm() * b.norm()
    return float(a @ b / norm) if norm > 1e-12 else None


@task(
    needs=set(),
    on_request=True,
    title="Local redundancy",
    words={
        "local": "similarity of places in one crop",
        "global": "similarity of two crops of one image",
        "other": "similarity of different images",
        "pearson": "correlation of local and global similarity",
    },
)
def redundancy(context: EvalContext, *, images: int = 500, crop: Crop = CROP) -> dict:
    """How alike the locations of one image are, and its correlation with the likeness of two views. No labels needed.

    Each image is seen in two random crops. Its local similarity is the mean cosine between different locations of one
    crop, over both crops; its global similarity is the cosine between the pooled features of the two.

    Returns:
        local and global (means over images); other (mean cosine of pooled features of different images); pearson, r
        between local and global similarity over the images; n.

    Raises:
        UsageError: for no images, or a feature map of one location.
    """
    local: list[Tensor] = []
    pooled: tuple[list[Tensor], list[Tensor]] = ([], [])
    for _, *features in two_crops(context, images=images, crop=crop):
        if features[0].tokens.shape[1] < 2:
            size = context.image_size
            raise UsageError(f"redundancy: the feature map has one cell at {size} px; give a larger image size")
        local.append(torch.stack([similarity_of_cells(each.tokens) for each in features]).mean(0).cpu())
        for side, each in zip(pooled, features, strict=True):
            side.append(F.normalize(each.pooled.float(), dim=1).cpu())
    a, b = (torch.cat(side) for side in pooled)
    same, count, cells = (a * b).sum(1), len(a), torch.cat(local)
    return {
        "local": float(cells.mean()),
        "global": float(same.mean()),
        "other": float(((a.sum(0) @ b.sum(0)) - same.sum()) / max(1, count * (count - 1))),
        "pearson": pearson(cells, same),
        "n": count,
    }
