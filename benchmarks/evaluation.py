"""Evaluation on frozen features: kNN beside scikit-learn's, the grid of linear probes beside training one by one."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor, nn

from benchmarks.measure import Size, compared, interleaved
from glocal import random
from glocal.evaluation.knn import knn_predict
from glocal.evaluation.linear import LRS, WDS, Training, train_probes

K, TEMPERATURE = 20, 0.07


@dataclass(frozen=True)
class Case:
    """Features of a collection: N to learn from, M to classify, of D dimensions and of so many classes."""

    train: int
    test: int
    dim: int
    classes: int
    epochs: int


CASES = {
    "full": (Case(3000, 800, 512, 10, epochs=10), Case(10_000, 2000, 2048, 100, epochs=1)),
    "smoke": (Case(120, 40, 8, 3, epochs=2),),
}


def measure(size: Size) -> dict[str, Any]:
    """Each case, both tasks."""
    rounds = 3 if size == "full" else 1
    return {
        "knn": [measure_knn(case, rounds) for case in CASES[size]],
        "linear": [measure_linear(case, rounds) for case in CASES[size]],
    }


def features(case: Case) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Clusters that overlap, such that classifiers err: train (N, D) and (N,), test (M, D) and (M,)."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(case.classes, case.dim, generator=generator)
    count = case.train + case.test
    y = torch.arange(count) % case.classes
    x = centres[y] * (8 / case.dim) ** 0.5 + torch.randn(count, case.dim, generator=generator)
    return x[: case.train], y[: case.train], x[case.train :], y[case.train :]


def measure_knn(case: Case, rounds: int) -> dict[str, Any]:
    """The same rule (cosine, exponential weights), so that predictions are equal but for ties."""
    x, y, queries, truth = features(case)
    said: dict[str, np.ndarray] = {}

    def ours() -> None:
        said["glocal"] = knn_predict(queries, x, y, k=K, temperature=TEMPERATURE).numpy()

    def theirs() -> None:
        model = KNeighborsClassifier(
            K, weights=lambda distance: np.exp((1 - distance) / TEMPERATURE), metric="cosine", n_jobs=-1
        )
        said["scikit-learn"] = model.fit(x.numpy(), y.numpy()).predict(queries.numpy())

    times = interleaved({"glocal": ours, "scikit-learn": theirs}, rounds=rounds)
    return {
        **asdict(case),
        **compared(times, "glocal", "scikit-learn"),
        "top1": {name: float((predicted == truth.numpy()).mean()) for name, predicted in said.items()},
        "same_predictions": float((said["glocal"] == said["scikit-learn"]).mean()),
    }


def measure_linear(case: Case, rounds: int) -> dict[str, Any]:
    """All of `glocal evaluate`'s settings on the same batches in the same order."""
    x, y, queries, truth = features(case)
    settings, training = list(product(LRS, WDS)), Training(epochs=case.epochs)
    logits: dict[str, Tensor] = {}

    def ours() -> None:
        logits["glocal"] = train_probes(x, y, case.classes, settings, training).logits(queries)

    def theirs() -> None:
        models = [one_by_one(x, y, case.classes, lr, wd, training) for lr, wd in settings]
        with torch.no_grad():
            logits["one by one"] = torch.stack([model(queries) for model in models], dim=1)

    times = interleaved({"glocal": ours, "one by one": theirs}, rounds=rounds)
    correct = {name: (each.argmax(-1) == truth[:, None]).float().mean(0) for name, each in logits.items()}
    return {
        **asdict(case),
        "settings": len(settings),
        "target": 10,
        **compared(times, "glocal", "one by one"),
        "best_top1": {name: float(each.max()) for name, each in correct.items()},
        "largest_difference_of_top1": float((correct["glocal"] - correct["one by one"]).abs().max()),
    }


def one_by_one(x: Tensor, y: Tensor, classes: int, lr: float, wd: float, training: Training) -> nn.Linear:
    """One linear probe as anyone would write it in PyTorch: SGD with momentum, cosine, no decay on the bias."""
    model = nn.Linear(x.shape[1], classes)
    nn.init.zeros_(model.weight)
    nn.init.zeros_(model.bias)
    groups = [{"params": [model.weight], "weight_decay": wd}, {"params": [model.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    steps = training.epochs * -(-len(x) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(training.epochs):
        order = torch.from_numpy(random.permutation(len(x), training.seed, "linear", epoch))
        for rows in order.split(training.batch_size):
            loss = F.cross_entropy(model(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model
