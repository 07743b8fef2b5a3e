"""The linear probe: softmax regression on frozen pooled features, its setting chosen on held-out training images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.errors import UsageError
from glocal.evaluation.exam import Exam
from glocal.evaluation.probe import Grid, Probes, Standardise, best
from glocal.evaluation.registry import task
from glocal.evaluation.split import held_out

LRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WDS = (0.0, 1e-4, 1e-3, 1e-2)


def train_probes(
    x: Tensor,
    y: Tensor,
    classes: int,
    settings: Sequence[tuple[float, float]],
    *,
    epochs: int = 100,
    batch_size: int = 256,
    seed: int = 0,
) -> Probes:
    """One softmax regression per (lr, wd), all on the same batches; each equals the one trained alone.

    Args:
        x: (N, D) standardised features.
        y: (N,) int64 classes.
        classes: K.
        settings: G pairs (learning rate, weight decay).
        epochs: passes over the data, under one cosine.
        batch_size: rows per step.
        seed: of the order.
    """
    probes = Probes(settings, x.shape[1], classes, x.device)
    targets = F.one_hot(y, classes).float().unsqueeze(1)
    per_epoch = -(-len(x) // batch_size)
    for epoch in range(epochs):
        order = torch.from_numpy(random.permutation(len(x), seed, "linear", epoch)).to(x.device)
        for number, rows in enumerate(order.split(batch_size)):
            batch = x[rows]
            error = (probes.logits(batch).softmax(-1) - targets[rows]) / len(rows)  # the cross-entropy's gradient
            grad_weight = (batch.T @ error.flatten(1)).unflatten(1, error.shape[1:])
            probes.step(grad_weight, error.sum(0), (epoch * per_epoch + number) / (epochs * per_epoch))
    return probes


def linear_probe(
    x: Tensor,
    y: Tensor,
    classes: int,
    *,
    grid: Grid,
    epochs: int,
    batch_size: int,
    seed: int,
) -> tuple[Standardise, Probes, dict]:
    """Choose (lr, wd) on a held-out fifth of the training images, then train on all of them with it.

    Args:
        x: (N, D) pooled features of the training images.
        y: (N,) int64 classes.
        classes: K.

    Returns:
        The standardisation, one trained probe (G = 1), and {"lr", "wd", "validation_top1"}.
    """
    kept, held = (torch.from_numpy(p).to(x.device) for p in held_out(len(x), seed, "probe", labels=y.cpu().numpy()))
    if len(held) == 0:
        raise UsageError("linear needs at least two training images of one class, to choose its learning rate on")
    standardise = Standardise.of(x[kept])
    probes = train_probes(
        standardise(x[kept]), y[kept], classes, grid.settings, epochs=epochs, batch_size=batch_size, seed=seed
    )
    logits = probes.logits(standardise(x[held]))
    scores = (logits.argmax(-1) == y[held, None]).float().mean(0)
    losses = F.cross_entropy(logits.transpose(1, 2), y[held, None].expand(-1, logits.shape[1]), reduction="none").mean(
        0
    )
    chosen = best(scores, losses)
    lr, wd = grid.settings[chosen]
    standardise = Standardise.of(x)
    final = train_probes(standardise(x), y, classes, [(lr, wd)], epochs=epochs, batch_size=batch_size, seed=seed)
    return standardise, final, {"lr": lr, "wd": wd, "validation_top1": float(scores[chosen])}


@task(needs="labels")
def linear(
    exam: Exam,
    *,
    lrs: Sequence[float] = LRS,
    wds: Sequence[float] = WDS,
    epochs: int = 100,
    batch_size: int = 256,
) -> dict:
    """Accuracy of a linear classifier on frozen pooled features, tested once.

    Returns:
        top1; balanced (mean recall over the classes present in the test images); the chosen lr and wd; validation_top1.
    """
    train, test = exam.bank("train"), exam.bank("test")
    y, truth = exam.labels(train), exam.labels(test).numpy()
    classes = int(max(int(y.max()), truth.max())) + 1
    standardise, probe, chosen = linear_probe(
        exam.on_device(train.pooled),
        exam.on_device(y),
        classes,
        grid=Grid(lrs, wds),
        epochs=epochs,
        batch_size=batch_size,
        seed=exam.seed,
    )
    right = (probe.logits(standardise(exam.on_device(test.pooled)))[:, 0].argmax(-1).cpu().numpy()) == truth
    recalls = [right[truth == c].mean() for c in np.unique(truth)]
    return {"top1": float(right.mean()), "balanced": float(np.mean(recalls)), **chosen}
