"""Weighted nearest neighbours on cosine similarity (Wu et al. 2018, with DINO's k = 20 and T = .07)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.evaluation.context import EvalContext
from glocal.evaluation.groups import PerImage
from glocal.evaluation.registry import task

_ROWS, _COLUMNS = 1024, 65536


def nearest_neighbours(queries: Tensor, bank: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k most cosine-similar rows of `bank` (N, D) for each query (M, D), in blocks: never an M×N matrix.

    Returns similarities and positions in the bank, both (M, k), most similar first.
    """
    queries, bank = F.normalize(queries.float(), dim=1), F.normalize(bank.float(), dim=1)
    values, positions = [], []
    for rows in queries.split(_ROWS):
        best = rows.new_empty(len(rows), 0)
        where = torch.empty(len(rows), 0, dtype=torch.int64, device=rows.device)
        for start in range(0, len(bank), _COLUMNS):
            similarity = rows @ bank[start : start + _COLUMNS].T
            top, at = similarity.topk(min(k, similarity.shape[1]), dim=1)
            best, where = torch.cat([best, top], 1), torch.cat([where, at + start], 1)
            best, order = best.topk(min(k, best.shape[1]), dim=1)
            where = where.gather(1, order)
        values.append(best)
        positions.append(where)
    return torch.cat(values), torch.cat(positions)


def knn_predict(queries: Tensor, bank: Tensor, labels: Tensor, *, k: int = 20, temperature: float = 0.07) -> Tensor:
    """Class (M,) of each query (M, D): neighbours vote with weight exp(similarity / temperature).

    Args:
        queries: (M, D) features to classify.
        bank: (N, D) features of known class.
        labels: (N,) int64 classes.
        k: neighbours, at most N.
        temperature: small values trust the nearest ones more.
    """
    similarity, position = nearest_neighbours(queries, bank, min(k, len(bank)))
    votes = queries.new_zeros(len(queries), int(labels.max()) + 1, dtype=torch.float32)
    votes.scatter_add_(1, labels[position], (similarity / temperature).exp())
    return votes.argmax(1)


@task(needs={"labels"}, title="Nearest neighbours", main="top1", words={"top1": "accuracy"}, shares={"top1": "images"})
def knn(context: EvalContext, *, k: int = 20, temperature: float = 0.07) -> dict:
    """Accuracy of the weighted k-nearest-neighbour classifier on pooled features."""
    train, test = context.bank("train"), context.bank("test")
    labels, truth = context.labels(train), context.labels(test)
    queries, bank = test.pooled.to(context.device), train.pooled.to(context.device)
    predicted = knn_predict(queries, bank, labels.to(context.device), k=k, temperature=temperature).cpu()
    context.each = PerImage.mean("top1", test.index, predicted == truth)
    return {"top1": float((predicted == truth).float().mean()), "k": min(k, len(labels)), "temperature": temperature}
