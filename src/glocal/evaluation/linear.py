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


class Training(NamedTuple):
    """Passes over the data under one cosine, rows per step, and the seed of the order."""

    epochs: int = 100
    batch_size: int = 256
    seed: int = 0


def train_probes(
    x: Tensor, y: Tensor, classes: int, settings: Sequence[tuple[float, float]], training: Training
) -> Probes:
    """One softmax regression per (lr, wd), all on the same batches; each equals the one trained alone.

    Args:
        x: (N, D) standardised features.
        y: (N,) int64 classes.
        classes: K.
        settings: G pairs (learning rate, weight decay).
        training: how long.
    """
    probes = Probes(settings, x.shape[1], classes, x.device)
    targets = F.one_hot(y, classes).float()
    done, steps = 0, training.epochs * -(-len(x) // training.batch_size)
    for epoch in range(training.epochs):
        order = torch.from_numpy(random.permutation(len(x), training.seed, "linear", epoch)).to(x.device)
        for rows in order.split(training.batch_size):
            probes.learn(x[rows], targets[rows], done / steps)
            done += 1
    return probes


def linear_probe(
    x: Tensor, y: Tensor, classes: int, settings: Sequence[tuple[float, float]], training: Training
) -> tuple[Standardise, Probes, dict]:
    """Choose (lr, wd) on a held-out fifth of the training images, then train on all of them with it.

    Arguments as for `train_probes`, but for `x`, which is not standardised yet.

    Returns:
        The standardisation, one trained probe (G = 1), and {"lr", "wd", "validation_top1"}.
    """
    split = held_out(len(x), training.seed, "probe", labels=y.cpu().numpy())
    kept, held = (torch.from_numpy(rows).to(x.device) for rows in split)
    if len(held) == 0:
        raise UsageError("linear needs at least two training images of one class, to choose its learning rate on")
    standardise = Standardise.of(x[kept])
    probes = train_probes(standardise(x[kept]), y[kept], classes, settings, training)
    logits = probes.logits(standardise(x[held]))
    scores = (logits.argmax(-1) == y[held, None]).float().mean(0)
    losses = torch.stack([F.cross_entropy(each, y[held]) for each in logits.unbind(1)])
    chosen = best(scores, probes.finite(), losses)
    standardise = Standardise.of(x)
    final = train_probes(standardise(x), y, classes, [settings[chosen]], training)
    lr, wd = settings[chosen]
    return standardise, final, {"lr": lr, "wd": wd, "validation_top1": float(scores[chosen])}


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
        x, y = bank.pooled.to(context.device), context.labels(bank)
        return linear_probe(x, y.to(context.device), int(y.max()) + 1, list(product(lrs, wds)), training)

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
    logits = probe.logits(standardise(test.pooled.to(context.device)))[:, 0]
    right = logits.argmax(-1).cpu().numpy() == truth
    top = logits.topk(max(1, min(5, logits.shape[1] // 2))).indices.cpu().numpy()
    context.each = PerImage.mean("top1", test.index, right, top)
    recalls = [right[truth == c].mean() for c in np.unique(truth)]
    return {"top1": float(right.mean()), "balanced": float(np.mean(recalls)), **chosen}
