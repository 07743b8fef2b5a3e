"""Tasks that only replications ask for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glocal import random
from glocal.backbones.class_attention import class_attention
from glocal.evaluation import EvalContext, find_task, task
from glocal.evaluation.extract import normalise
from glocal.evaluation.probe import Standardise

DRAWS = 5
MASS = 0.6
"""The share of its mass that an attention map is cut at, as published."""


@task(needs={"labels"})
def few(context: EvalContext, *, labelled: Sequence[int] = (1, 5, 10, 50, 500)) -> dict[str, float]:
    """Accuracy of logistic regression on few labels a class, the mean over five draws of them.

    Returns:
        The number of labels a class, as a text -> top1.
    """
    from sklearn.linear_model import LogisticRegression

    train, test = context.bank("train"), context.bank("test")
    labels, truth = context.labels(train).numpy(), context.labels(test).numpy()
    standardise = Standardise.of(train.pooled)  # of all training images: it takes no labels
    x, queries = standardise(train.pooled).numpy(), standardise(test.pooled).numpy()
    found = {}
    for count in labelled:
        hits = []
        for draw in range(DRAWS):
            orders = (
                (of, random.permutation(len(of), context.seed, "few", draw, int(of[0]))) for of in by_class(labels)
            )
            chosen = np.concatenate([of[order[:count]] for of, order in orders])
            classifier = LogisticRegression(max_iter=200).fit(x[chosen], labels[chosen])
            hits.append(float((classifier.predict(queries) == truth).mean()))
        found[str(count)] = float(np.mean(hits))
    return found


def by_class(labels: np.ndarray) -> list[np.ndarray]:
    """Positions of each class, (n,) each."""
    return [np.flatnonzero(labels == label) for label in np.unique(labels)]


@task(needs={"labels"})
def knn_at(context: EvalContext, *, patches: Sequence[int] = (4, 8, 16)) -> dict[str, float]:
    """kNN accuracy of an encoder whose patches can be set, at each.

    Returns:
        The patch in pixels, as a text -> top1.
    """
    encoder: Any = context.encoder
    told = {name: getattr(context, name) for name in ("train", "test", "image_size", "batch_size", "seed")}
    return {str(p): find_task("knn")(EvalContext(encoder.at(p), **told))["top1"] for p in patches}


@task(needs={"masks"}, main="jaccard")
def attention(context: EvalContext, *, images: int = 500) -> dict[str, float]:
    """Jaccard index of objects and the class token's attention in the last block of a transformer (DINO, figure 4).

    An image's map is cut such that its strongest patches hold 60% of its mass; of the heads the best counts.

    Returns:
        jaccard, the mean over test images.
    """
    encoder: Any = context.encoder
    scores = []
    for i in range(min(images, len(context.test))):
        pixels = torch.from_numpy(context.test.open(i).decode())[None]
        truth = torch.from_numpy(context.test.mask(i)) > 0
        maps = class_attention(encoder, normalise(encoder, pixels))[0]  # (heads, H, W)
        scores.append(max(jaccard(covered(each, MASS), truth) for each in maps))
    return {"jaccard": float(np.mean(scores))}


def covered(weights: Tensor, mass: float) -> Tensor:
    """(H, W) bool: the fewest cells that hold at least this share of the weights (H, W)."""
    values, order = weights.flatten().sort(descending=True)
    before = values.cumsum(0) - values
    kept = torch.zeros(len(values), dtype=torch.bool)
    kept[order] = before < mass * values.sum()
    return kept.view_as(weights)


def jaccard(cells: Tensor, truth: Tensor) -> float:
    """Intersection over union of cells (H, W) and a mask (h, w) whose sides are multiples of theirs."""
    height, width = (t // c for t, c in zip(truth.shape, cells.shape, strict=True))
    shown = cells.repeat_interleave(height, 0).repeat_interleave(width, 1)
    return float((shown & truth).sum() / (shown | truth).sum().clamp_min(1))
