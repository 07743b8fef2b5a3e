"""Retrieval by attribute: are the training images nearest to a test image alike in what a person named?"""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.data import ImageSource
from glocal.errors import UsageError, did_you_mean
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import FeatureBank
from glocal.evaluation.groups import PerImage
from glocal.evaluation.linear import RESIDENT
from glocal.evaluation.registry import task


def average_precision(scores: Tensor, positive: Tensor) -> Tensor:
    """The mean over positives of the precision among all that score as high: scikit-learn's, ties and all.

    Args:
        scores: (N,), high first.
        positive: (N,) bool, at least one true.
    """
    own = scores[positive]
    at_least = lambda values: len(values) - torch.searchsorted(values.sort().values, own)
    return (at_least(own).double() / at_least(scores)).mean()


@task(
    on_request=True,
    title="Retrieval",
    main="map",
    words={"map": "mean average precision"},
    shares={"map": "queries", "precision_at_*": "neighbours"},
)
def retrieve(context: EvalContext, *, attribute: str | None = None, ks: Sequence[int] = (1, 5, 10)) -> dict:
    """How many of the nearest training images share a test image's class, or its group in a column of the table.

    Cosine similarity of pooled features. A test image counts if its attribute is known and a training image has it.

    Returns:
        map, the mean over test images of the average precision of all training images; precision_at_k, the share of the
        k nearest with the same attribute; queries, how many counted.
    """
    train, test = context.bank("train"), context.bank("test")
    theirs, wanted = _attribute(context.train, train, attribute), _attribute(context.test, test, attribute)
    if not ks or min(ks) < 1 or max(ks) > len(theirs):
        raise UsageError(f"retrieve looks at {list(ks)} neighbours; each must be from 1 to the {len(theirs)} images")
    device = context.device if train.pooled.nbytes <= RESIDENT else torch.device("cpu")
    gallery, queries = (F.normalize(bank.pooled.to(device), dim=1) for bank in (train, test))
    known = np.unique(theirs)
    rows = [i for i, value in enumerate(wanted) if value and value in known]
    if not rows:
        raise UsageError("retrieve: no attribute of a test image is one of a training image")
    precision: dict[int, list[float]] = {k: [] for k in ks}
    average = []
    for i in rows:
        similarity, alike = (gallery @ queries[i]).cpu(), torch.from_numpy(theirs == wanted[i])
        average.append(float(average_precision(similarity, alike)))
        nearest = alike[similarity.topk(max(ks)).indices].double()
        for k in ks:
            precision[k].append(float(nearest[:k].mean()))
    context.each = PerImage.mean("map", test.index.numpy()[rows], average)
    found = {f"precision_at_{k}": float(np.mean(values)) for k, values in precision.items()}
    return {"map": float(np.mean(average)), **found, "queries": len(rows)}


def _attribute(source: ImageSource, bank: FeatureBank, attribute: str | None) -> np.ndarray:
    """(N,) names of each readable image's class or, of a column of groups, its group, "" where unknown."""
    if attribute is None:
        if source.labels is None or source.classes is None:
            raise UsageError(
                "retrieve needs labels, or a column of --groups: --task-options '{retrieve: {attribute: X}}'"
            )
        return np.array(source.classes)[source.labels[bank.index.numpy()]]
    columns = source.groups or {}
    if attribute not in columns:
        raise UsageError(f"retrieve: {source.name} has no groups '{attribute}'{did_you_mean(attribute, columns)}")
    return np.array([*columns[attribute].names, ""])[columns[attribute].of[bank.index.numpy()]]
