"""Every method, with its recipe for small data, learns more than nothing.

Claim: trained by its preset `small`, each registered method gives a linear classifier better features than the weights
that it started from.

Protocol, written before it was run. Train each method on the training images of clothing + pets + camvid together
(3,735) for 400 steps of 64 images (6.9 epochs, 8.3 for PAWS), in bf16, with what glocal decides for it and nothing
else: a ResNet of 8 convolutions (replications/thin_resnet.py) at 64 px, whose map has 2×2 cells, and 8×8 for VICRegL
and CO-BYOL (which with 2×2 gained .003 ± .011 in its first three runs); on edges without colour for DeepCluster and
DeeperCluster, as published; or, for the two that leave out patches (MSN, LOCA), timm's test_vit at 128 px. Small
networks, because on a processor their many steps say more than a ResNet-18's few. Evaluate the last step: linear and
kNN on clothing at the size of training, test split, and the same of the very weights that the run began with. Three
seeds, differences paired by seed. PAWS alone sees labels, a tenth of those of clothing, and is trained on clothing
alone (3,068), since the three together have none. In 6.9 epochs DeepCluster and DeepCluster-v2 cluster seven times,
DeeperCluster three times.

After the first seed the small recipes of SwAV, SEER, DINO and PAWS, and AdamW for DeepCluster and DeeperCluster in
short runs, were chosen by some 25 trials on a further seed, scored on the same test images; all seeds of these methods
were then run anew. What they gain is that much less surprising.

Cost is processor time of one thread per training image, clustering and monitoring included, relative to VICReg's; the
median over the seeds, since the first one also decodes the images.

Verdict rule. A method "learns" if the mean over the seeds of (linear − linear of its random initialisation) is positive
and exceeds two standard errors of that mean. (With three seeds, one useless method in eleven would pass.)

    python -m replications.methods --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.methods --table         # from what is kept
"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import glocal
from glocal.methods import method_names
from replications.evidence import Check, checks, method_code_lines
from replications.protocol import (
    RUN,
    Arm,
    Score,
    cpu_seconds,
    kept,
    measured,
    of,
    place,
    replicate,
    spread,
    trained,
    untrained,
)

NAME = "methods"
STEPS = 400
SETS = ("clothing", "pets", "camvid")
LABELLED = {"paws": ("clothing",)}
REFERENCE = "vicreg"  # whose cost is 1
COMMON: dict[str, Any] = {"batch_size": 64}
CONVOLUTIONAL = {"backbone": "replications.thin_resnet:thin_rf195", "image_size": 64}
CELLS = {"backbone": "replications.thin_resnet:thin_rf79", "image_size": 64}
EDGES = {"backbone": "replications.thin_resnet:sobel_thin_rf195", "image_size": 64}
TRANSFORMER = {"backbone": "test_vit", "image_size": 128}
OTHERS = {
    "vicregl": CELLS,
    "co-byol": CELLS,
    "deepcluster": EDGES,
    "deepercluster": EDGES,
    "loca": TRANSFORMER,
    "msn": TRANSFORMER,
}
# What runs begin with.
RANDOM = {
    "random": CONVOLUTIONAL,
    "random-cells": CELLS,
    "random-edges": EDGES,
    "random-vit": TRANSFORMER,
    "random-vit-mean": TRANSFORMER | {"pool": "mean"},
}
ARMS = [Arm(name, options) for name, options in RANDOM.items()] + [
    Arm(name, {"method": name, **OTHERS.get(name, CONVOLUTIONAL)}) for name in method_names()
]
BEGINNINGS = {
    "msn": "random-vit",
    "loca": "random-vit-mean",
    "vicregl": "random-cells",
    "co-byol": "random-cells",
    "deepcluster": "random-edges",
    "deepercluster": "random-edges",
}
HEAD = (
    "| method | oracle | processes | recipe | linear | kNN | linear − random | learns | lines of code | cost |\n"
    + "|---" * 10
    + "|"
)


def baseline(method: str) -> str:
    """What a method's runs begin with."""
    return BEGINNINGS.get(method, "random")


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train, or go on training, and evaluate."""
    size = arm.options["image_size"]
    scores = {task: Score(task, "clothing", task, image_size=size) for task in ("linear", "knn")}
    if arm.name in RANDOM:
        return {"scores": measured(untrained(arm.options, seed), data, scores)}
    folder = runs / f"{NAME}-{arm.name}-{seed}"
    whole, before = not folder.exists(), cpu_seconds()
    options = {**RUN, **COMMON, "max_steps": STEPS, **arm.options}
    encoder, last = trained(folder, [place(data, name) for name in LABELLED.get(arm.name, SETS)], seed, options)
    spent = cpu_seconds() - before
    return {
        "scores": measured(encoder, data, scores),
        "images": last["step"] * options["batch_size"],
        "train_seconds": last["time"],
        "train_cpu_seconds": spent if whole else None,
        "head_parameters": head_parameters(folder),
        "last": last,
    }


def head_parameters(folder: Path) -> int:
    """How many a run trained beside its encoder's."""
    method = glocal.load_method(folder)
    trainable = [sum(p.numel() for p in module.parameters() if p.requires_grad) for module in (method, method.encoder)]
    return trainable[0] - trainable[1]


def gain(found: Mapping[str, Any], method: str) -> tuple[float, float] | None:
    """Mean over the seeds of linear − random, and its standard error; None with fewer than two seeds of both."""
    ours, theirs = of(found, method, "linear"), of(found, baseline(method), "linear")
    differences = [ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys()]
    if len(differences) < 2:
        return None
    return statistics.fmean(differences), statistics.stdev(differences) / math.sqrt(len(differences))


def verdict(difference: tuple[float, float] | None) -> str:
    """Of the rule: "yes" or "no"; "not run yet" without a difference."""
    if difference is None:
        return "not run yet"
    mean, error = difference
    return "yes" if mean > max(0, 2 * error) else "no"


def cost(found: Mapping[str, Any], method: str) -> float | None:
    """Processor seconds per image, the median over the runs that nothing interrupted."""
    runs = [r for r in found.get(method, {}).values() if r["train_cpu_seconds"] is not None]
    return statistics.median(r["train_cpu_seconds"] / r["images"] for r in runs) if runs else None


def row(arm: Arm, found: Mapping[str, Any], parity: list[Check], distributed: list[Check]) -> str:
    """A line of the table: one method, or one of what they begin with."""
    begin = RANDOM[arm.name if arm.name in RANDOM else baseline(arm.name)]
    recipe = f"{begin['backbone'].partition(':')[2] or begin['backbone']}, {begin['image_size']} px"
    recipe += f", pool {begin['pool']}" if "pool" in begin else ""
    runs = found.get(arm.name, {})
    scores = [spread(list(of(found, arm.name, key).values())) if runs else "not run yet" for key in ("linear", "knn")]
    if arm.name in RANDOM:
        return f"| {arm.name} | | | {recipe} | " + " | ".join(scores) + " | | | | |"
    difference, own, reference = gain(found, arm.name), cost(found, arm.name), cost(found, REFERENCE)
    cells = [
        ", ".join(dict.fromkeys(f"[{check.oracle}](../{check.path})" for check in parity)),
        ", ".join(dict.fromkeys(f"[1 = 2](../{check.path})" for check in distributed)),
        f"{recipe}, {COMMON['batch_size']} × {STEPS} steps",
        *scores,
        f"{difference[0]:+.3f} ± {difference[1]:.3f}" if difference else "",
        verdict(difference),
        str(method_code_lines(arm.name)),
        f"{own / reference:.1f}" if own and reference else "",
    ]
    return f"| {arm.name} | " + " | ".join(cells) + " |"


def table() -> str:
    """Markdown: a row for each method and for what they begin with."""
    found, parity, distributed = kept(NAME), checks("parity"), checks("distributed")
    lines = [row(arm, found, parity.get(arm.name, []), distributed.get(arm.name, [])) for arm in ARMS]
    return "\n".join([HEAD, *lines])


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
