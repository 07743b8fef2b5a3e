"""DCL needs no large batches (Yeh, Hong, Hsu, Liu, Chen, LeCun, ECCV 2022).

Claim: without the positive in InfoNCE's denominator a small batch learns nearly as well as a large one; what DCL gains
over SimCLR grows as the batch shrinks. Published, ResNet-50 on ImageNet, 200 epochs at batch 256, linear: SimCLR 61.8,
DCL 66.9 with SimCLR's settings (68.2 with its own).

Protocol, written before it was run. Pretrain a ResNet of 8 convolutions (replications/thin_resnet.py, 64 px, τ .1) on
the training images of clothing + pets + camvid together (3,735), at batches of 16 and 128 for 19,200 images seen each
(5.1 epochs): 1,200 and 150 steps. The optimiser is SGD, lr .12 per 256 images, for all: InfoNCE's gradient is DCL's
times a factor below 1 (the smaller the batch, the smaller), and LARS would divide its size out again. Evaluate the last
step: kNN and linear on clothing, test split. Three seeds, differences paired by seed; under 2 processor minutes an arm
and seed.

Verdict rule. With g(B) = linear of DCL − linear of SimCLR at batch B, "reproduced" if g(16) − g(128) has a 95% interval
above 0, "not reproduced" if it lies below 0, else "undecided".

    python -m replications.dcl --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.dcl --table         # from what is kept
"""

from __future__ import annotations

import sys
from typing import Any

from replications.protocol import SEEDS, Arm, Claim, Score, difference, kept, of, paired, replicate, rows

NAME = "dcl"
IMAGES = 19_200
BATCHES = (16, 128)
SETS = ("clothing", "pets", "camvid")
COMMON: dict[str, Any] = {
    "backbone": "replications.thin_resnet:thin_rf195",
    "image_size": 64,
    "temperature": 0.1,
    "optimizer": "sgd",
    "weight_decay": 1e-4,
}
ARMS = [Arm("random")] + [
    Arm(
        f"{method}-{batch}",
        {"method": method, "batch_size": batch, "max_steps": IMAGES // batch, "lr": 0.12 * batch / 256},
    )
    for batch in BATCHES
    for method in ("simclr", "dcl")
]
SCORES = {"knn": Score("clothing kNN", "clothing", "knn"), "linear": Score("clothing linear", "clothing", "linear")}


def table() -> str:
    """Markdown: scores by arm, gains over SimCLR at each batch, and by how much more at the smallest; verdict."""
    found = kept(NAME)
    if not found:
        return "Not run yet: no verdict."
    lines = rows(found, ARMS, {key: score.title for key, score in SCORES.items()})
    lines += ["", "Gains over SimCLR in linear accuracy, paired by seed, with 95% intervals:", ""]
    for batch in BATCHES:
        gained = difference(found, Claim(f"dcl-{batch}", f"simclr-{batch}", "linear"))
        lines.append(f"- batch {batch}: {gained or 'not run yet'}")
    small, large = gain(found, BATCHES[0]), gain(found, BATCHES[-1])
    if len(small.keys() & large.keys()) < SEEDS:
        return "\n".join([*lines, "", "No verdict yet."])
    more = paired(small, large)
    return "\n".join([*lines, "", f"g({BATCHES[0]}) − g({BATCHES[-1]}): {more}. Verdict: **{more.verdict}**."])


def gain(found: dict[str, Any], batch: int) -> dict[int, float]:
    """Seed -> g(batch)."""
    ours, theirs = of(found, f"dcl-{batch}", "linear"), of(found, f"simclr-{batch}", "linear")
    return {seed: ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()}


if __name__ == "__main__":
    replicate(sys.modules[__name__])
