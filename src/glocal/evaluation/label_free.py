"""What can be said of an encoder without a single label."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from glocal.evaluation.context import EvalContext
from glocal.evaluation.correspond import CROP, two_crops
from glocal.evaluation.rank import rankme, redundancy, similarity_within, spread
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over
from glocal.views import Crop


@task(
    needs=set(),
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

    Args:
        images: test images whose dense features are looked at.

    Returns:
        rank_pooled, rank_dense (RankMe), dim, redundancy, spread (pooled), similarity_within and similarity_between
        (mean cosine of locations of the same and of different images), and n, n_dense: ranks compare only at equal n.
    """
    pooled = context.bank("test").pooled.to(context.device)
    dense = context.extract(spread_over(context.test, images), dense=True).dense
    assert dense is not None
    maps = dense.to(context.device).float()
    tokens = maps.permute(0, 2, 3, 1).flatten(0, 2)
    within, between = similarity_within(maps)
    return {
        "rank_pooled": rankme(pooled),
        "rank_dense": rankme(tokens),
        "dim": pooled.shape[1],
        "redundancy": redundancy(pooled),
        "spread": spread(pooled),
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
    pairs = [(a.pooled.float(), b.pooled.float()) for _, a, b in two_crops(context, images=images, crop=crop)]
    a, b = (F.normalize(torch.cat(side), dim=1) for side in zip(*pairs, strict=True))
    similarity = a @ b.T
    count = len(similarity)
    same = similarity.diagonal()
    return {
        "same": float(same.mean()),
        "other": float((similarity.sum() - same.sum()) / max(1, count * (count - 1))),
        "retrieval": float((similarity.argmax(1) == torch.arange(count, device=a.device)).float().mean()),
        "images": count,
    }
