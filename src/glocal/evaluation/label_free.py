"""What can be said of an encoder without a single label."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.errors import UsageError
from glocal.evaluation import rank as measured
from glocal.evaluation.context import EvalContext
from glocal.evaluation.correspond import CROP, two_crops
from glocal.evaluation.groups import PerImage
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over, spread_positions
from glocal.views import Crop


@task(
    needs=set(),
    squares=True,
    title="Rank and redundancy",
    words={
        "rank_pooled": "effective rank, pooled",
        "rank_dense": "effective rank, dense",
        "redundancy": "mean correlation between dimensions",
        "spread": "spread (1 is isotropic)",
        "similarity_within": "similarity of places in one image",
        "similarity_between": "similarity of places in different images",
    },
)
def rank(context: EvalContext, *, images: int = 256) -> dict:
    """How many directions the features use, pooled and dense, and how alike they are. No labels needed.

    Dense features are those of so many test images. Ranks (RankMe) compare only at equal n and n_dense;
    similarity_within and similarity_between are mean cosines of locations of the same and of different images.
    """
    pooled = context.bank("test").pooled
    dense = context.extract(spread_over(context.test, images), dense=True).dense
    assert dense is not None
    maps = dense.float()
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2)
    within, between = measured.similarity_within(maps)
    return {
        "rank_pooled": measured.rankme(pooled),
        "rank_dense": measured.rankme(tokens),
        "dim": pooled.shape[1],
        "redundancy": measured.redundancy(pooled),
        "spread": measured.spread(pooled),
        "similarity_within": within,
        "similarity_between": between,
        "n": len(pooled),
        "n_dense": len(tokens),
    }


@task(
    needs=set(),
    title="Stability",
    main="retrieval",
    words={
        "retrieval": "other crop is the nearest",
        "same": "similarity of two crops of one image",
        "other": "similarity of different images",
    },
    shares={"retrieval": "images"},
)
def stability(context: EvalContext, *, images: int = 500, crop: Crop = CROP) -> dict:
    """Whether two crops of one image get features nearer to each other than to other images'. No labels needed.

    Returns:
        same (mean cosine of the two crops), other (of different images), retrieval (how often the other crop is the
        nearest among all images), images.
    """
    crops = two_crops(context, images=images, crop=crop)
    pairs = [(batch.index, a.pooled.float().cpu(), b.pooled.float().cpu()) for batch, a, b in crops]
    index, a, b = (torch.cat(side) for side in zip(*pairs, strict=True))
    a, b = F.normalize(a, dim=1), F.normalize(b, dim=1)
    similarity = a @ b.T
    count = len(similarity)
    same, found = similarity.diagonal(), similarity.argmax(1) == torch.arange(count)
    context.each = PerImage.mean("retrieval", spread_positions(len(context.test), images)[index.cpu()], found)
    return {
        "same": float(same.mean()),
        "other": float((similarity.sum() - same.sum()) / max(1, count * (count - 1))),
        "retrieval": float(found.float().mean()),
        "images": count,
    }


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
    squares=True,
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
        local and global (means over images); other (of pooled features of different images); pearson, r over the images
        of local and global similarity; n.
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
