"""The linear probe: softmax regression on frozen pooled features, its setting chosen on held-out training images."""

from collections.abc import Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.groups import PerImage
from glocal.evaluation.probe import Probes, Standardise, best
from glocal.evaluation.registry import task
from glocal.evaluation.split import held_out

LRS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)
WDS = (0.0, 1e-4, 1e-3, 1e-2, 1e-1)
RESIDENT = 2**31
"""Bytes of features up to which they lie on the device while probes learn; of more, each batch goes there."""
AT_ONCE = 2**27
"""Numbers, of features or logits, that are held at a time where all images are classified."""


class Training(NamedTuple):
    """Passes over the data under one cosine, rows per step, and the seed of the order."""

    epochs: int = 100
    batch_size: int = 256
    seed: int = 0


def train_probes(
    x: Tensor,
    y: Tensor,
    classes: int,
    settings: Sequence[tuple[float, float]],
    training: Training,
    device: torch.device | None = None,
) -> Probes:
    """One softmax regression per (lr, wd), all on the same batches; each equals the one trained alone.

    Args:
        x: (N, D) standardised features.
        y: (N,) int64 classes.
        classes: K.
        settings: G pairs (learning rate, weight decay).
        training: how long.
        device: where to; None: where the features are.
    """
    device = device or x.device
    probes = Probes(settings, x.shape[1], classes, device)
    if x.nbytes <= RESIDENT:
        x, y = x.to(device), y.to(device)
    done, steps = 0, training.epochs * -(-len(x) // training.batch_size)
    for epoch in range(training.epochs):
        order = torch.from_numpy(random.permutation(len(x), training.seed, "linear", epoch)).to(x.device)
        for rows in order.split(training.batch_size):
            targets = F.one_hot(y[rows].to(device), classes).float()
            probes.learn(x[rows].to(device), targets, done / steps)
            done += 1
    return probes


def judge(probes: Probes, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Accuracy and mean cross-entropy (G,) of each probe on standardised features (N, D) of classes y (N,)."""
    device = probes.weight.device
    right, losses = [], torch.zeros(len(probes.settings), device=device)
    some = _at_once(x.shape[1], probes.bias.numel())
    for features, truth in zip(x.split(some), y.to(device).split(some), strict=True):
        logits = probes.logits(features.to(device))
        right.append(logits.argmax(-1) == truth[:, None])
        losses += torch.stack([F.cross_entropy(each, truth) for each in logits.unbind(1)]) * (len(truth) / len(y))
    return torch.cat(right).float().mean(0), losses


def classify(standardise: Standardise, probe: Probes, pooled: Tensor, top: int = 1) -> Tensor:
    """The likeliest classes (N, top), in main memory, of pooled features (N, D) by one probe (G = 1)."""
    device = probe.weight.device
    parts = pooled.split(_at_once(pooled.shape[1], probe.classes))
    return torch.cat([probe.logits(standardise(part.to(device)))[:, 0].topk(top).indices.cpu() for part in parts])


def _at_once(*widths: int) -> int:
    """How many rows of these widths are held at a time."""
    return max(1, AT_ONCE // max(widths))


def linear_probe(
    x: Tensor,
    y: Tensor,
    classes: int,
    settings: Sequence[tuple[float, float]],
    training: Training,
    device: torch.device | None = None,
) -> tuple[Standardise, Probes, dict]:
    """Choose (lr, wd) on a held-out fifth of the training images, then train on all of them with it.

    Arguments as for `train_probes`, but for `x`, which is not standardised yet.

    Returns:
        There: the standardisation and one trained probe (G = 1); and {"lr", "wd", "validation_top1"}.
    """
    split = held_out(len(x), training.seed, "probe", labels=y.cpu().numpy())
    kept, held = (torch.from_numpy(rows).to(x.device) for rows in split)
    if len(held) == 0:
        raise UsageError("linear needs at least two training images of one class, to choose its learning rate on")
    standardise = Standardise.of(x[kept])
    probes = train_probes(standardise(x[kept]), y[kept], classes, settings, training, device)
    scores, losses = judge(probes, standardise(x[held]), y[held])
    chosen = best(scores, probes.finite(), losses)
    standardise = Standardise.of(x)
    final = train_probes(standardise(x), y, classes, [settings[chosen]], training, device)
    lr, wd = settings[chosen]
    return standardise.to(final.weight.device), final, {"lr": lr, "wd": wd, "validation_top1": float(scores[chosen])}


def trained_probe(
    context: EvalContext,
    lrs: Sequence[float] = LRS,
    wds: Sequence[float] = WDS,
    epochs: int = 100,
    batch_size: int = 256,
) -> tuple[Standardise, Probes, dict]:
    """`linear_probe` on the context's training images, trained once for all tasks that ask for the same."""

    def train() -> tuple[Standardise, Probes, dict]:
        bank, training = context.bank("train"), Training(epochs, batch_size, context.seed)
        y, grid = context.labels(bank), list(product(lrs, wds))
        return linear_probe(bank.pooled, y, int(y.max()) + 1, grid, training, context.device)

    return context.once(("linear", tuple(lrs), tuple(wds), epochs, batch_size), train)


@task(
    needs={"labels"},
    title="Linear probe",
    main="top1",
    words={"top1": "accuracy", "balanced": "mean accuracy of the classes"},
    shares={"top1": "images", "balanced": "classes"},
)
def linear(
    context: EvalContext,
    *,
    lrs: Sequence[float] = LRS,
    wds: Sequence[float] = WDS,
    epochs: int = 100,
    batch_size: int = 256,
) -> dict:
    """Accuracy of a linear classifier on frozen pooled features.

    SGD with momentum .9 and cosine decay on features standardised by the training images; `lrs` and `wds` are chosen
    from on a held-out stratified fifth of them. Then one classifier is trained on all and tested once.

    Returns:
        top1; balanced (mean recall over the classes present in the test images); the chosen lr and wd; validation_top1.
    """
    test = context.bank("test")
    truth = context.labels(test).numpy()
    standardise, probe, chosen = trained_probe(context, lrs, wds, epochs, batch_size)
    top = classify(standardise, probe, test.pooled, max(1, min(5, probe.classes // 2))).numpy()
    right = top[:, 0] == truth
    context.each = PerImage.mean("top1", test.index, right, top)
    recalls = [right[truth == c].mean() for c in np.unique(truth)]
    return {"top1": float(right.mean()), "balanced": float(np.mean(recalls)), **chosen}
