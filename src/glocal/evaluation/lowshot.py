"""Few labels: accuracy from 1, 5, 10 labelled images of each class, and from 1% and 10% of all."""

import warnings
from collections.abc import Sequence

import numpy as np
import torch

from glocal import random
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.groups import PerImage
from glocal.evaluation.knn import knn_predict
from glocal.evaluation.probe import Standardise
from glocal.evaluation.registry import task


def draw_labelled(labels: np.ndarray, number: int | float, seed: int, draw: int) -> np.ndarray:
    """Positions of `number` images of each class or, below 1, of that share of each, one at least; sorted."""
    chosen = []
    for label in np.unique(labels):
        of = np.flatnonzero(labels == label)
        count = number if number >= 1 else max(1, round(number * len(of)))
        chosen.append(of[random.permutation(len(of), seed, "lowshot", draw, int(label))[: int(count)]])
    return np.sort(np.concatenate(chosen))


@task(
    needs={"labels"},
    on_request=True,
    title="Few labels",
    main="logistic_5",
    shares={"logistic_*": "test images, over draws", "knn_*": "test images, over draws"},
)
def lowshot(
    context: EvalContext,
    *,
    shots: Sequence[int] = (1, 5, 10),
    shares: Sequence[float] = (0.01, 0.1),
    draws: int = 5,
    C: float = 1.0,
) -> dict:
    """Accuracy from few labelled images: logistic regression and the nearest neighbours, means over draws of them.

    Features are standardised by all training images, which takes no labels; logistic regression is scikit-learn's. Of
    neighbours as many vote as a class has labels, at most 20. A share is taken of each class, one image at least.

    Returns:
        logistic_N and knn_N for N images of each class, logistic_P% and knn_P% for a share; sd, their standard
        deviations over draws; draws.
    """
    from sklearn.linear_model import LogisticRegression

    if draws < 1 or not [*shots, *shares] or min([*shots, 1]) < 1 or not all(0 < share < 1 for share in shares):
        raise UsageError("lowshot takes shots of 1 or more, shares between 0 and 1, and draws of 1 or more")
    train, test = context.bank("train"), context.bank("test")
    labels, truth = context.labels(train).numpy(), context.labels(test).numpy()
    classes, sizes = np.unique(labels, return_counts=True)
    if len(classes) < 2:
        raise UsageError("lowshot needs two classes at least")
    if shots and sizes.min() < max(shots):
        least = int(classes[sizes.argmin()])
        name = context.train.classes[least] if context.train.classes else least
        had = f"class '{name}' has {sizes.min()} training images, fewer than {max(shots)} shots"
        raise UsageError(f'{had}: ask for fewer, --task-options \'{{"lowshot": {{"shots": [1]}}}}\'')
    standardise = Standardise.of(train.pooled)
    x, queries = standardise(train.pooled), standardise(test.pooled)
    right: dict[str, list[np.ndarray]] = {}
    for number in (*shots, *shares):
        called = str(number) if number >= 1 else f"{100 * number:g}%"
        for draw in range(draws):
            rows = draw_labelled(labels, number, context.seed, draw)
            with warnings.catch_warnings(action="ignore"):  # what has not converged after 1,000 steps has all but
                fitted = LogisticRegression(C=C, max_iter=1000).fit(x[rows].numpy(), labels[rows])
            of = torch.from_numpy(labels[rows])
            votes = min(20, int(np.bincount(labels[rows]).max()))
            near = knn_predict(test.pooled, train.pooled[rows], of, k=votes)
            right.setdefault(f"logistic_{called}", []).append(fitted.predict(queries.numpy()) == truth)
            right.setdefault(f"knn_{called}", []).append(near.numpy() == truth)
    each = {name: np.stack(found).astype(np.float64) for name, found in right.items()}  # (draws, N)
    main = "logistic_5" if "logistic_5" in each else next(iter(each))
    context.each = PerImage.mean(main, test.index, each[main].mean(0))
    sd = {name: float(found.mean(1).std(ddof=1)) if draws > 1 else 0.0 for name, found in each.items()}
    return {name: float(found.mean()) for name, found in each.items()} | {"sd": sd, "draws": draws}
