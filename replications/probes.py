"""Tasks that only replications ask for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    return {str(count): with_labels(context, lambda of, count=count: count) for count in labelled}


@task(needs={"labels"})
def tenth(context: EvalContext) -> dict[str, float]:
    """Accuracy of logistic regression on a tenth of each class's labels, the mean over five draws of them."""
    return {"top1": with_labels(context, lambda of: max(1, of // 10))}


def with_labels(context: EvalContext, count: Callable[[int], int]) -> float:
    """Accuracy of logistic regression on `count(of)` labels of a class that has so many, the mean over five draws."""
    from sklearn.linear_model import LogisticRegression

    train, test = context.bank("train"), context.bank("test")
    labels, truth = context.labels(train).numpy(), context.labels(test).numpy()
    standardise = Standardise.of(train.pooled)  # of all training images: it takes no labels
    x, queries = standardise(train.pooled).numpy(), standardise(test.pooled).numpy()
    hits = []
    for draw in range(DRAWS):
        orders = ((of, random.permutation(len(of), context.seed, "few", draw, int(of[0]))) for of in by_class(labels))
        chosen = np.concatenate([of[order[: count(len(of))]] for of, order in orders])
        classifier = LogisticRegression(max_iter=200).fit(x[chosen], labels[chosen])
        hits.append(float((classifier.predict(queries) == truth).mean()))
    return float(np.mean(hits))


@task(needs={"labels"}, main="gap")
def frequent(context: EvalContext, *, epochs: int = 20) -> dict[str, float]:
    """How much better a linear probe serves the classes that were frequent in the mix than those that were rare there.

    The probe itself is trained on all classes alike.

    Returns:
        gap (top1 of the first half of the classes less that of the other half), and rare, the latter.
    """
    find_task("linear")(context, epochs=epochs)
    each, labels = context.each, context.test.labels
    assert each is not None
    assert labels is not None
    rare = labels[each.index] > labels.max() // 2
    of_rare, of_frequent = (float(each.score(each.parts[chosen].sum(0))) for chosen in (rare, ~rare))
    return {"gap": of_frequent - of_rare, "rare": of_rare}


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
