"""Weighted nearest neighbours on cosine similarity (Wu et al. 2018, with DINO's k = 20 and T = .07)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.evaluation.context import EvalContext
from glocal.evaluation.groups import PerImage
from glocal.evaluation.registry import task

_ROWS, _COLUMNS = 1024, 65536


def nearest_neighbours(
    queries: Tensor, bank: Tensor, k: int, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The k most cosine-similar rows of `bank` (N, D) for each query (M, D), in blocks: never an M×N matrix.

    Where each entry of the bank has several vectors, (N, L, D), the most similar of them counts. Blocks of both are
    compared on `device`, or where they are.

    Returns similarities and positions in the bank, both (M, k), most similar first, where the queries are.
    """
    device = device or queries.device
    none = torch.empty(len(queries), 0, device=device), torch.empty(len(queries), 0, dtype=torch.int64, device=device)
    found = list(zip(*(each.split(_ROWS) for each in none), strict=True))
    of_each = bank.shape[1] if bank.ndim == 3 else 1
    block = max(1, _COLUMNS // of_each)
    for start in range(0, len(bank), block):
        columns = F.normalize(bank[start : start + block].to(device).float(), dim=-1).flatten(0, -2)
        for number, rows in enumerate(queries.split(_ROWS)):
            similarity = F.normalize(rows.to(device).float(), dim=1) @ columns.T
            if of_each > 1:
                similarity = similarity.unflatten(1, (-1, of_each)).amax(2)
            top, at = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, where = (torch.cat(both, 1) for both in zip(found[number], (top, at + start), strict=True))
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            found[number] = best, where.gather(1, order)
    values, positions = (torch.cat(each).to(queries.device) for each in zip(*found, strict=True))
    return values, positions


def knn_predict(
    queries: Tensor,
    bank: Tensor,
    labels: Tensor,
    *,
    k: int = 20,
    temperature: float = 0.07,
    device: torch.device | None = None,
) -> Tensor:
    """Class (M,) of each query (M, D): neighbours vote with weight exp(similarity / temperature).

    Args:
        queries: (M, D) features to classify.
        bank: (N, D) features of known class.
        labels: (N,) int64 classes.
        k: neighbours, at most N.
        temperature: small values trust the nearest ones more.
        device: where to compare them; None: where they are.
    """
    similarity, position = nearest_neighbours(queries, bank, min(k, len(bank)), device)
    votes = queries.new_zeros(len(queries), int(labels.max()) + 1, dtype=torch.float32)
    votes.scatter_add_(1, labels[position], (similarity / temperature).exp())
    return votes.argmax(1)


@task(needs={"labels"}, title="Nearest neighbours", main="top1", words={"top1": "accuracy"}, shares={"top1": "images"})
def knn(context: EvalContext, *, k: int = 20, temperature: float = 0.07) -> dict:
    """Accuracy of the weighted k-nearest-neighbour classifier on pooled features."""
    train, test = context.bank("train"), context.bank("test")
    labels, truth = context.labels(train), context.labels(test)
    settings: dict[str, Any] = {"k": k, "temperature": temperature, "device": context.device}
    predicted = knn_predict(test.pooled, train.pooled, labels, **settings)
    context.each = PerImage.mean("top1", test.index, predicted == truth)
    return {"top1": float((predicted == truth).float().mean()), "k": min(k, len(labels)), "temperature": temperature}
