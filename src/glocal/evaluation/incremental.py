"""Classes that come one after the other: how well all seen so far are told apart after each step; frozen features."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.probe import Standardise
from glocal.evaluation.registry import task
from glocal.heads.neighbour_fusion import FUSION_RATE, NeighbourClassifier

WAYS = "mtn", "replay", "nearest_mean", "naive", "joint"
BATCH = 64


def herd(x: Tensor, number: int) -> Tensor:
    """Which `number` rows of x (N, D) to keep of a class, best first (Rebuffi et al. 2017, arXiv 1611.07725).

    Each is the one by which the mean of those chosen, as directions, comes nearest to that of all.

    Returns:
        (min(N, number),) int64 positions.
    """
    x = F.normalize(x.double(), dim=1)
    mean, total, free = x.mean(0), torch.zeros_like(x[0]), torch.ones(len(x), dtype=torch.bool)
    chosen: list[int] = []
    for k in range(1, min(len(x), number) + 1):
        distance = (mean - (total + x) / k).norm(dim=1)
        chosen.append(int(torch.where(free, distance, torch.inf).argmin()))
        free[chosen[-1]] = False
        total = total + x[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)


def herd_classes(x: Tensor, y: Tensor, number: int) -> Tensor:
    """Positions (M,) of at most `number` exemplars of each class among features x (N, D) of classes y (N,)."""
    rows = [torch.nonzero(y == k)[:, 0] for k in y.unique()]
    return torch.cat([of[herd(x[of], number)] for of in rows]) if rows else torch.empty(0, dtype=torch.int64)


def class_means(x: Tensor, y: Tensor, classes: int) -> Tensor:
    """The mean direction (K, D) of each class among features x (N, D) of classes y (N,); 0 where there are none."""
    sums = torch.zeros(classes, x.shape[1]).index_add_(0, y, F.normalize(x, dim=1))
    return F.normalize(sums, dim=1)


def distillation(logits: Tensor, before: Tensor) -> Tensor:
    """Cross-entropy of the old classes (B,): `logits` (B, ≥ K) against what was said before, logits (B, K)."""
    return F.cross_entropy(logits[:, : before.shape[1]], before.softmax(1), reduction="none")


def steps_of(labels: np.ndarray, steps: int, seed: int) -> list[np.ndarray]:
    """The classes that come in each step, in an order drawn by the seed; a `UsageError` if there are too few."""
    classes = np.unique(labels)
    if not 2 <= steps <= len(classes):
        raise UsageError(f"incremental: steps is {steps}, give 2 to {len(classes)}: there are {len(classes)} classes")
    return np.array_split(classes[random.permutation(len(classes), seed, "incremental")], steps)


def forgetting(accuracies: Sequence[Sequence[float]]) -> float:
    """Mean over the steps but the last of how far the accuracy on a step's classes fell from its best to its last.

    Args:
        accuracies: after each step, those on the classes of each step so far.
    """
    last = accuracies[-1]
    return float(np.mean([max(row[t] for row in accuracies[t:]) - last[t] for t in range(len(last) - 1)]))


@task(
    needs={"labels"},
    on_request=True,
    title="New classes",
    main="mtn",
    words={
        "mtn": "neighbours in memory fused",
        "replay": "replay of the memory",
        "nearest_mean": "nearest class mean",
        "naive": "new classes alone",
        "joint": "all images kept",
    },
    shares=dict.fromkeys(WAYS, "test images, over steps"),
)
def incremental(
    context: EvalContext,
    *,
    steps: int | None = None,
    memory: int = 20,
    neighbours: int = 10,
    layers: int = 1,
    epochs: int = 20,
    lr: float = 1e-3,
    ways: Sequence[str] = WAYS,
) -> dict:
    """Accuracy on all classes seen so far when classes come in steps, mean over the steps; and how much is forgotten.

    On features standardised by those of the first step. A cosine classifier, to which all classes count alike, learns
    each step's images and, but for `naive`, the exemplars of the classes before, chosen by herding; `replay` and `mtn`
    also keep to what it said before (distillation). `mtn` fuses a feature with its neighbours in the memory (Iscen et
    al. 2022), by a transformer that learns in the first step, `nearest_mean` knows the exemplars' mean alone (iCaRL),
    `joint` keeps all images. There are five steps, or as many as classes.

    Returns:
        By way: its average incremental accuracy; accuracy, after each step; forgetting, the mean over steps of how far
        their classes fell from their best. Then steps and memory.
    """
    if memory < 1 or unknown_way(ways):
        raise UsageError(f"incremental takes a memory of 1 or more, and ways among {', '.join(WAYS)}")
    train, test = context.bank("train"), context.bank("test")
    labels, truth = context.labels(train), context.labels(test)
    steps = min(5, len(labels.unique())) if steps is None else steps
    parts = steps_of(labels.numpy(), steps, context.seed)
    number = {int(k): n for n, k in enumerate(np.concatenate(parts))}  # classes in the order in which they come
    y, wanted = (torch.tensor([number.get(int(k), -1) for k in of]) for of in (labels, truth))
    ends = np.cumsum([len(part) for part in parts])
    for step, (low, high) in enumerate(_ranges(ends.tolist()), 1):
        if not ((wanted >= low) & (wanted < high)).any():
            raise UsageError(
                f"incremental: no test image is of the classes of step {step}; take fewer steps than {steps}"
            )
    standardise = Standardise.of(train.pooled[y < ends[0]])
    x, queries = standardise(train.pooled), standardise(test.pooled)
    settings: dict[str, Any] = {"neighbours": neighbours, "layers": layers, "epochs": epochs, "lr": lr}
    result: dict[str, Any] = {"accuracy": {}, "forgetting": {}}
    for way in ways:
        each: list[list[float]] = []
        average: list[float] = []
        for predicted in _predictions(way, x, y, ends.tolist(), queries, memory, context.seed, settings):
            right = predicted == wanted
            seen = [(wanted >= low) & (wanted < high) for low, high in _ranges(ends[: len(each) + 1].tolist())]
            each.append([float(right[of].float().mean()) for of in seen])
            average.append(float(right[torch.stack(seen).any(0)].float().mean()))
        result |= {way: float(np.mean(average))}
        result["accuracy"][way], result["forgetting"][way] = average, forgetting(each)
    return result | {"steps": steps, "memory": memory}


def unknown_way(ways: Sequence[str]) -> bool:
    return bool({*ways} - {*WAYS})


def _ranges(ends: Sequence[int]) -> list[tuple[int, int]]:
    return list(zip([0, *ends[:-1]], ends, strict=True))


def _predictions(
    way: str, x: Tensor, y: Tensor, ends: list[int], queries: Tensor, memory: int, seed: int, settings: dict[str, Any]
) -> Iterator[Tensor]:
    """After each step, the class (M,) of each query among those seen."""
    most = {"naive": 0, "joint": len(x)}.get(way, memory)
    kept = torch.empty(0, dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(random.derive(seed, "incremental"))
        k = settings["neighbours"] if way == "mtn" else 0
        model = NeighbourClassifier(x.shape[1], ends[-1], neighbours=k, layers=settings["layers"])
    for low, high in _ranges(ends):
        new = torch.nonzero((y >= low) & (y < high))[:, 0]
        exemplars = torch.cat([kept, new[herd_classes(x[new], y[new], most)]])
        if way == "nearest_mean":
            yield (F.normalize(queries, dim=1) @ class_means(x[exemplars], y[exemplars], high).T).argmax(1)
        else:
            previous = copy.deepcopy(model) if low and way in ("replay", "mtn") else None
            model.begin(x[new], y[new])
            model.remember(x[exemplars], y[exemplars], exemplars)
            rows = torch.cat([kept, new])
            _learn(model, previous, x, y, rows, low, high, seed, settings)
            with torch.no_grad():
                yield torch.cat([model(part)[:, :high].argmax(1) for part in queries.split(1024)])
        kept = exemplars


def _learn(
    model: NeighbourClassifier,
    previous: NeighbourClassifier | None,
    x: Tensor,
    y: Tensor,
    rows: Tensor,
    low: int,
    high: int,
    seed: int,
    settings: dict[str, Any],
) -> None:
    """Train on the samples `rows`, the classes below `low` being old, those from `high` on still to come."""
    named, rates = list(model.named_parameters()), {True: FUSION_RATE * settings["lr"], False: settings["lr"]}
    if low:  # the fusion stays
        del rates[True]
    groups = [{"params": [p for n, p in named if n.startswith("fusion.") == slow], "lr": rates[slow]} for slow in rates]
    optimizer = torch.optim.AdamW([group for group in groups if group["params"]], weight_decay=0.0)
    amounts = torch.bincount(y[rows], minlength=high)[:high]
    alike = len(rows) / (amounts.clamp_min(1) * (amounts > 0).sum())
    for epoch in range(settings["epochs"]):
        order = torch.from_numpy(random.permutation(len(rows), seed, "incremental", low, epoch))
        for at in rows[order].split(BATCH):
            logits = model(x[at], at[:, None])[:, :high]
            loss = (F.cross_entropy(logits, y[at], reduction="none") * alike[y[at]]).mean()
            if previous is not None:
                with torch.no_grad():
                    before = previous(x[at], at[:, None])[:, :low]
                loss = loss + distillation(logits, before).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
