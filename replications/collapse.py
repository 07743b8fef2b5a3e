"""What keeps each method from collapse: with and without it.

Claim: features collapse when DINO's centring or sharpening (Caron et al. 2021, section 5.3), VICReg's variance term
(Bardes et al. 2022, table 7), SwAV's equal shares (Caron et al. 2020, section 3.1), BYOL's predictor (Grill et al.
2020, table 5) or the stop-gradient of BYOL without a teacher, which is SimSiam (Chen and He 2021, table 1: linear 67.7
-> 0.1), is taken away.

Protocol, written before it was run, but for two choices that a trial of DINO on another seed led to: 256 directions in
place of more, and the teacher's distributions in place of the student's. Pretrain timm's `test_resnet` (48 px) on 1,000
generated images (`parts`), 300 steps of 64 images, with each method's preset for small data, in float32, with AdamW at
lr 1e-3 for all, since LARS would bound how fast weights can vanish, teachers of momentum .95, which 300 steps are long
for, and for DINO 256 directions from a head without normalisation, as published. What is without a piece differs from
the intact method by that piece alone: the centre stays 0; the teacher's temperature is the student's; the variance has
no weight; the codes are softmax(scores/ε); the predictor is the identity; gradients flow through the target. Evaluate
the last step on the test images: kNN, and of what must not be the same for all (the teacher's distributions of DINO,
SwAV's predictions over prototypes, BYOL's predictions, VICReg's embeddings) the effective rank (centred RankMe), the
spread (1 where directions are isotropic, 0 where all are the same) and the mean standard deviation of a dimension.
Three seeds; under 2 processor minutes an arm and seed.

Verdict rule. A run has collapsed if spread < .01 or rank < 3 (the thresholds of `glocal.diagnostics.check_features`),
or, for VICReg, whose embeddings have a scale, if the standard deviation is < .1 where its loss asks for 1. Of a
piece the claim is "reproduced" if every run without it has collapsed and none with it, "not reproduced" if none without
it has, else "undecided"; of all together it is reproduced if each is, and not reproduced if one is not.

    python -m replications.collapse           # generated data
    python -m replications.collapse --table   # from what is kept
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import glocal
from glocal.data import open_source
from glocal.evaluation.extract import extract
from glocal.evaluation.rank import rankme, spread
from glocal.features import Features
from glocal.losses.distillation import teacher_distribution
from glocal.methods import BYOL, DINO, SwAV, VICReg, encode
from glocal.methods.teacher import PredictorHeads
from glocal.views import Batch
from replications.protocol import (
    SEEDS,
    Arm,
    Score,
    kept,
    of,
    overall,
    replicate,
    rows,
    run_arm,
    run_folder,
)


class NoPredictor(BYOL):
    """BYOL whose projection itself is the prediction."""

    def new_heads(self) -> PredictorHeads:
        return PredictorHeads(super().new_heads().projector, nn.Identity())


class SimSiam(BYOL):
    """BYOL without a teacher: the target is the student's own projection behind a stop-gradient."""

    def represent(self, batch: Batch) -> tuple[list[Features], list[Features]]:
        features = encode(self.encoder, batch.views)
        return features, features

    def target(self, heads: Any, pooled: list[Tensor]) -> list[Tensor]:
        return [heads.projector(x).detach() for x in pooled]

    def after_step(self, progress: float) -> None:
        pass


class NoStopGradient(SimSiam):
    """The same, but the target moves towards the prediction too."""

    def target(self, heads: Any, pooled: list[Tensor]) -> list[Tensor]:
        return [heads.projector(x) for x in pooled]


NAME = "collapse"
WORLD = "parts:n=1000,size=48"
SETS = (WORLD,)
COMMON: dict[str, Any] = {
    "backbone": "test_resnet",
    "image_size": 48,
    "batch_size": 64,
    "max_steps": 300,
    "optimizer": "adamw",
    "lr": 1e-3,
    "weight_decay": 1e-4,
    "precision": "32-true",
}
TEACHER = {"momentum": 0.95}
DINO_HEAD = {"outputs": 256, "head_norm": "none"}
ARMS = [
    Arm("random"),
    Arm("dino", {"method": "dino", **DINO_HEAD, **TEACHER}),
    Arm("dino-without-centring", {"method": "dino", **DINO_HEAD, **TEACHER, "center_momentum": 1.0}),
    Arm("dino-without-sharpening", {"method": "dino", **DINO_HEAD, **TEACHER, "teacher_temperature": (0.1, 0.1)}),
    Arm("vicreg", {"method": "vicreg"}),
    Arm("vicreg-without-variance", {"method": "vicreg", "variance_weight": 0.0}),
    Arm("swav", {"method": "swav"}),
    Arm("swav-without-balance", {"method": "swav", "rounds": 0}),
    Arm("byol", {"method": "byol", **TEACHER}),
    Arm("byol-without-predictor", {"method": "replications.collapse:NoPredictor", **TEACHER}),
    Arm("simsiam", {"method": "replications.collapse:SimSiam"}),
    Arm("simsiam-without-stop", {"method": "replications.collapse:NoStopGradient"}),
]
PIECES = {
    arm.name: arm.name.partition("-without")[0] for arm in ARMS if "-without" in arm.name
}  # of what it is a piece
SCORES = {"knn": Score("kNN", WORLD, "knn")}
OUTPUTS = {"rank": "rank", "spread": "spread", "deviation": "deviation", "collapsed": "collapsed"}


@torch.no_grad()
def outputs(method: Any, images: Any) -> Tensor:
    """What must not be the same for all images, (N, K): targets of DINO, else what the loss compares with targets."""
    encoder = method.teacher if isinstance(method, DINO) else method.encoder
    pooled = extract(encoder, images, image_size=method.encoder.image_size).pooled
    if isinstance(method, DINO):
        return teacher_distribution(method.heads.target(pooled), method.heads.center, method.temperature)
    if isinstance(method, SwAV):
        z = F.normalize(method.projector(pooled), dim=-1)
        return (method.prototypes(z) / method.temperature).softmax(dim=-1)
    return method.heads(pooled) if isinstance(method, BYOL) else method.projector(pooled)


def collapse(folder: Path) -> dict[str, float]:
    """How far a run's outputs have collapsed, and whether by the rule."""
    method = glocal.load_method(folder)
    z = outputs(method, open_source(WORLD, split="test"))
    found = {"rank": rankme(z, centred=True), "spread": spread(z), "deviation": float(z.std(0).mean())}
    shrunk = isinstance(method, VICReg) and found["deviation"] < 0.1
    return {**found, "collapsed": float(shrunk or found["spread"] < 0.01 or found["rank"] < 3)}


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train and score."""
    module = sys.modules[__name__]
    if "method" not in arm.options:
        return run_arm(module, arm, seed, data, runs)
    folder = run_folder(module, arm, seed, runs)
    return run_arm(module, arm, seed, data, runs, lambda encoder: collapse(folder))


def verdict(ablated: list[float], intact: list[float]) -> str:
    """On one piece: whether runs without it collapsed (1) or not (0), and with it."""
    if all(ablated) and not any(intact):
        return "reproduced"
    return "undecided" if any(ablated) else "not reproduced"


def table() -> str:
    """Markdown: scores by arm, and the verdict on each piece."""
    found = kept(NAME)
    if not found:
        return "Not run yet: no verdict."
    lines = [*rows(found, ARMS, {"knn": SCORES["knn"].title} | OUTPUTS), ""]
    verdicts = []
    for piece, method in PIECES.items():
        ablated, intact = (list(of(found, arm, "collapsed").values()) for arm in (piece, method))
        if min(len(ablated), len(intact)) >= SEEDS:
            verdicts.append(verdict(ablated, intact))
            counts = f"{sum(ablated):.0f} of {len(ablated)} collapsed, {sum(intact):.0f} of {len(intact)} with it"
            lines.append(f"- {piece}: {counts} ({verdicts[-1]})")
    if len(verdicts) < len(PIECES):
        return "\n".join([*lines, "", "No verdict yet."])
    return "\n".join([*lines, "", f"Verdict: **{overall(verdicts)}**."])


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
