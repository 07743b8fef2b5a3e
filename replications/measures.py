"""Numbers that are measured on a run rather than on its encoder: function(run) -> {key: number}."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import glocal
from glocal.run import Run

COLLAPSE_WORLD = "parts:n=1000,size=48"


def rising_nmi(run: Run) -> dict[str, float]:
    """By how much more the last two clusterings of a run agree than the first two."""
    found = [line["clusters/nmi"] for line in run.metrics() if "clusters/nmi" in line]
    return {"nmi rise": found[-1] - found[0]}


def by_shape(run: Run) -> dict[str, float]:
    """Linear accuracy on test photographs like those that a run learnt from, in their own shapes, at five sizes.

    Of what it began with at one of them.
    """
    from glocal.evaluation.baseline import start_of

    (where,) = run.config()["data"] if isinstance(run.config()["data"], list) else [run.config()["data"]]
    encoder = glocal.load(str(run), trust_code=True)

    def linear(of: Any, side: int) -> float:
        told = {"image_size": side, "native": True, "task_options": {"linear": {"epochs": 50}}}
        return glocal.evaluate(of, where, tasks=["linear"], **told)["linear"]["top1"]

    found = {f"linear_{side}": linear(encoder, side) for side in (36, 48, 60, 72, 96)}
    return found | {"random_72": linear(start_of(encoder, seed=run.config()["seed"]), 72)}


def collapse(run: Run) -> dict[str, float]:
    """How far a run's outputs have collapsed: spread < .01 or rank < 3 or, where VICReg asks for 1, deviation < .1."""
    from glocal.data import open_source
    from glocal.evaluation.rank import rankme, spread
    from glocal.methods import VICReg

    method = glocal.load_method(run, trust_code=True)
    z = outputs(method, open_source(COLLAPSE_WORLD, split="test"))
    found = {"rank": rankme(z, centred=True), "spread": spread(z), "deviation": float(z.std(0).mean())}
    shrunk = isinstance(method, VICReg) and found["deviation"] < 0.1
    return {**found, "collapsed": float(shrunk or found["spread"] < 0.01 or found["rank"] < 3)}


@torch.no_grad()
def outputs(method: Any, images: Any) -> Tensor:
    """What must not be the same for all images, (N, K): targets of DINO, else what the loss compares with targets."""
    from glocal.evaluation.extract import extract
    from glocal.losses.distillation import teacher_distribution
    from glocal.methods import BYOL, DINO, SwAV

    encoder = method.teacher if isinstance(method, DINO) else method.encoder
    pooled = extract(encoder, images, image_size=method.encoder.image_size).pooled
    if isinstance(method, DINO):
        return teacher_distribution(method.heads.target(pooled), method.heads.center, method.temperature)
    if isinstance(method, SwAV):
        z = F.normalize(method.projector(pooled), dim=-1)
        return (method.prototypes(z) / method.temperature).softmax(dim=-1)
    return method.heads(pooled) if isinstance(method, BYOL) else method.projector(pooled)


def own_labels(run: Run) -> dict[str, float]:
    """Accuracy of logistic regression on the labels that PAWS learnt from, and on no others.

    Of another method on 5 and on 10 a class that PAWS learns from with this seed.

    Returns:
        "shotN", N being their number a class, -> top1.
    """
    from sklearn.linear_model import LogisticRegression

    from glocal.data import Subset, open_source
    from glocal.evaluation.extract import extract
    from glocal.evaluation.probe import Standardise
    from glocal.evaluation.split import spread_over
    from glocal.views.support import choose_labelled

    config = run.config()
    encoder, size = glocal.load(str(run), trust_code=True), config["image_size"]
    train, test = (open_source(config["data"][0], split=split) for split in ("train", "test"))
    some, asked = (extract(encoder, spread_over(images, 10_000), image_size=size) for images in (train, test))
    standardise, found = Standardise.of(some.pooled), {}
    for labelled in [config["labelled"]] if "labelled" in config else [5, 10]:
        each = choose_labelled(train, labelled, config["seed"])
        known = extract(encoder, Subset(train, np.concatenate(each)), image_size=size)
        classifier = LogisticRegression(max_iter=200).fit(standardise(known.pooled).numpy(), known.labels)
        right = classifier.predict(standardise(asked.pooled).numpy()) == np.asarray(asked.labels)
        found[f"shot{len(each[0])}"] = float(right.mean())
    return found


def normality(run: Run) -> dict[str, float]:
    """The share of projections of features and of embeddings that are normal under noise of .01, on test images."""
    from glocal.data import open_source
    from glocal.evaluation import EvalContext, find_task

    method: Any = glocal.load_method(run, trust_code=True)
    images = open_source(str(run.config()["data"][0]), split="test")
    found = {}
    for name, head in (("features", torch.nn.Identity()), ("embeddings", method.projector)):
        context = EvalContext(Headed(method.encoder, head).eval(), images, images, method.encoder.image_size)
        told = find_task("information")(context, images=64, draws=512)
        found |= {f"{name} normal at {sigma}": share for sigma, share in told["normal"].items()}
        found |= {f"{name} error at {sigma}": share for sigma, share in told["error"].items()}
    return {"normal beyond .9": found["features normal at 0.01"] - 0.9, **found}


class Headed(torch.nn.Module):
    """An encoder whose pooled features are those of a head."""

    def __init__(self, encoder: Any, head: torch.nn.Module) -> None:
        super().__init__()
        self.encoder, self.head, self.mean, self.std = encoder, head, encoder.mean, encoder.std

    def forward(self, x: Tensor) -> Any:
        features = self.encoder(x)
        return replace(features, pooled=self.head(features.pooled))


def stability(run: Run) -> dict[str, float]:
    """Whether a run has diverged, and the decimal logarithm of its largest attention logit on test images.

    It has if it was stopped, its loss no longer a number, or if it ends (the mean of its last fifth) guessing, no lower
    than the logarithm of the number of classes.
    """
    from glocal.data import open_source
    from glocal.evaluation.extract import extract
    from glocal.evaluation.split import spread_over

    losses = [line["loss"] for line in run.metrics() if "loss" in line]
    ended = sum(losses[-max(1, len(losses) // 5) :]) / max(1, len(losses) // 5)
    stopped = not run.has_encoder
    encoder = glocal.load(str(run.path), trust_code=True)
    largest: list[Tensor] = []

    def look(block: Any, inputs: Any, output: Any) -> None:
        largest.append(logits(block, inputs[0]).abs().amax())

    hooks = [block.register_forward_hook(look) for block in encoder.model.blocks]
    images = open_source(run.config()["data"][0], split="test")
    extract(encoder, spread_over(images, 256), image_size=encoder.image_size)
    for hook in hooks:
        hook.remove()
    guessing = math.log(len(images.classes or []))
    diverged = stopped or ended >= guessing - 0.02
    return {"diverged": float(diverged), "log10 logit": float(torch.stack(largest).max().log10())}


def logits(block: Any, x: Tensor) -> Tensor:
    """(B, heads, N, N): what a block of ViT-22B takes the softmax of, for its input (B, N, D)."""
    _, q, k, _ = block.in_proj(block.in_norm(x)).split(block.in_split, dim=-1)
    q, k = (z.unflatten(2, (block.num_heads, -1)).transpose(1, 2) for z in (q, k))
    return block.q_norm(q) @ block.k_norm(k).mT * block.scale
