"""Search: how high an encoder of texts ranks those that answer a query, and how high BM25 does."""

from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F

from glocal.errors import UsageError
from glocal.evaluation.bm25 import BM25
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import frozen
from glocal.evaluation.groups import PerImage
from glocal.evaluation.registry import task

CUT, MANY = 10, 100
_SCORES = {"ndcg_at_10": "nDCG@10", "recall_at_10": "recall@10", "recall_at_100": "recall@100", "mrr": "MRR"}


def ranked(scores: np.ndarray, relevant: list[int]) -> np.ndarray:
    """nDCG@10, recall@10, recall@100 and the reciprocal rank of the first relevant text, (4,), of one query.

    Args:
        scores: (N,) of the texts, high first; of equal ones the first counts as higher.
        relevant: positions of those that answer it, one at least.
    """
    place = np.empty(len(scores), np.int64)
    place[np.argsort(-scores, kind="stable")] = np.arange(len(scores))
    at = np.sort(place[np.unique(relevant)])
    gain = lambda places: (1 / np.log2(places[places < CUT] + 2)).sum()
    recall = [float((at < k).mean()) for k in (CUT, MANY)]
    return np.array([gain(at) / gain(np.arange(len(at))), *recall, 1 / (1 + at[0])])


@task(
    needs={"queries"},
    title="Search",
    main="ndcg_at_10",
    words={**_SCORES, **{f"bm25_{name}": f"{what} of BM25" for name, what in _SCORES.items()}},
)
def search(context: EvalContext, *, similarity: Literal["cosine", "dot"] = "cosine") -> dict:
    """nDCG@10, recall and MRR of the texts that answer a query, by the likeness of pooled features; BM25's beside.

    Queries that no text answers do not count. Contriever's paper has the dot product.
    """
    encoder, source = context.encoder, context.test
    if getattr(encoder, "reads", "images") != "text":
        raise UsageError(f"search reads texts; {getattr(encoder, 'name', 'this encoder')} reads images")
    asked, texts = source.queries, [source.text(i) for i in range(len(source))]  # type: ignore[attr-defined]
    rows = [n for n, relevant in enumerate(asked.relevant) if relevant]
    if not rows:
        raise UsageError(f"search: no text of {source.name} answers a query")
    with frozen(encoder):
        bank, queries = encoder.read(texts), encoder.read([asked.texts[n] for n in rows])  # type: ignore[operator]
    if similarity == "cosine":
        bank, queries = F.normalize(bank, dim=1), F.normalize(queries, dim=1)
    words = BM25(texts)
    found: dict[str, list[np.ndarray]] = {"": [], "bm25_": []}
    for n, query in zip(rows, queries, strict=True):
        found[""].append(ranked(torch.mv(bank, query).numpy(), asked.relevant[n]))
        found["bm25_"].append(ranked(words.scores(asked.texts[n]), asked.relevant[n]))
    context.each = PerImage.mean("ndcg_at_10", rows, [each[0] for each in found[""]])
    means = {start: np.mean(each, axis=0) for start, each in found.items()}
    return {f"{start}{name}": float(mean[k]) for start, mean in means.items() for k, name in enumerate(_SCORES)} | {
        "queries": len(rows)
    }
