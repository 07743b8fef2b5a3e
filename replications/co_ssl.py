"""CO-BYOL against BYOL: accuracy, robustness, redundancy, training crops (Aubret, Teulière, Triesch 2025).

Claims (arXiv:2501.02860): letting each cell of a view predict the other view as a whole gives better linear accuracy at
the same budget; more robustness to noise, to activations lost inside the network and to small attacks; local
representations that are more redundant; and it bears large training crops, the more so with a small receptive field.
Published: RF-ResNet-50 on ImageNet, 100 epochs, 71.5% linear.

Protocol, written before it was run. Part 1: ResNet-18 (64 px, output stride 16, so 4×4 maps), the `small` recipe of
each method, a teacher's momentum of .95 at the start for both (published: .99, whose memory of 100 steps is half of
this run), batch 64, 200 steps on the training images of clothing + pets + camvid together (3,735); `byol-time` is BYOL
for as many more steps as CO-BYOL takes more time a step. Last step, test split of clothing: kNN, linear; mean
corruption accuracy (15 corruptions, severities 1, 3, 5), accuracy with 50% of the last stage's activations lost, and
under PGD of .5/255, each as a share of the clean accuracy, on 250 images; the mean cosine between an image's cells.
Part 2: a ResNet of 8 convolutions at 96 px with a receptive field of 79 or 195 px and crops of at least .1 or .7 of the
image's area, 150 steps; linear accuracy. Three seeds, differences paired by seed.

Verdict rule, for each claim by itself: "reproduced" if the 95% interval of its difference lies above 0, "not
reproduced" if below 0, else "undecided".

    python -m replications.co_ssl --data DIR       # DIR/{clothing,pets,camvid}
    python -m replications.co_ssl --table          # from what is kept
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import glocal
from replications.protocol import Arm, Difference, kept, paired, place, replicate, rows, trained

NAME = "co_ssl"
STEPS, SLOWER = 200, 1.15
COMMON: dict[str, Any] = {
    "preset": "small",
    "momentum": 0.95,
    "batch_size": 64,
    "epochs": 1000,
    "monitor_every": 1000,
    "workers": 0,
    "report": False,
    "quiet": True,
}
RESNET18 = {"backbone": "resnet18", "image_size": 64, "output_stride": 16, "max_steps": STEPS}


def thin(method: str, field: int, least: float) -> Arm:
    """An arm of part 2."""
    backbone = f"replications.thin_resnet:thin_rf{field}"
    options = {"backbone": backbone, "image_size": 96, "max_steps": 150, "scale": [least, 1.0], "method": method}
    return Arm(f"{method}-rf{field}-crop{least:g}", options | ({"cells": 16} if method == "co-byol" else {}))


WHOLE = [
    Arm("byol", {"method": "byol", **RESNET18}),
    Arm("byol-time", {"method": "byol", **RESNET18, "max_steps": round(STEPS * SLOWER)}),
    Arm("co-byol", {"method": "co-byol", **RESNET18}),
]
CROPS = [thin(m, f, c) for m, f in (("byol", 79), ("co-byol", 79), ("co-byol", 195)) for c in (0.1, 0.7)]
ARMS = WHOLE + CROPS
SETS = ("clothing", "pets", "camvid")
SCORES = {
    "knn": "kNN",
    "linear": "linear",
    "corruptions": "kept under corruptions",
    "internal": "kept under loss of activations",
    "pgd": "kept under PGD",
    "local": "cosine of cells",
}
LINEAR = {"linear": "clothing linear"}
# what is claimed -> (score, arms that have more, arms that have less)
CLAIMS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "more accurate at equal epochs": ("linear", ("co-byol",), ("byol",)),
    "more accurate at equal time": ("linear", ("co-byol",), ("byol-time",)),
    "keeps more under corruptions": ("corruptions", ("co-byol",), ("byol",)),
    "keeps more when activations are lost": ("internal", ("co-byol",), ("byol",)),
    "keeps more under PGD": ("pgd", ("co-byol",), ("byol",)),
    "local representations are more redundant": ("local", ("co-byol",), ("byol",)),
    "bears large training crops better than BYOL": (
        "linear",
        ("co-byol-rf79-crop0.7", "byol-rf79-crop0.1"),
        ("co-byol-rf79-crop0.1", "byol-rf79-crop0.7"),
    ),
    "bears them the better, the smaller the receptive field": (
        "linear",
        ("co-byol-rf79-crop0.7", "co-byol-rf195-crop0.1"),
        ("co-byol-rf79-crop0.1", "co-byol-rf195-crop0.7"),
    ),
}
TASKS = {
    "knn": {},
    "linear": {},
    "robustness": {"severities": [1, 3, 5], "images": 250},
    "internal": {"shares": [0.5], "images": 250},
    "attack": {"radii": [0.5], "images": 250},
    "redundancy": {},
}


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train, or go on training, and evaluate."""
    folder = runs / f"{NAME}-{arm.name}-{seed}"
    encoder, last = trained(folder, [place(data, name) for name in SETS], seed, {**COMMON, **arm.options})
    tasks = TASKS if arm in WHOLE else {"linear": {}}
    size = arm.options["image_size"]
    found = glocal.evaluate(encoder, place(data, "clothing"), tasks=list(tasks), image_size=size, task_options=tasks)
    scores = {"linear": found["linear"]["top1"]}
    if arm in WHOLE:
        scores |= {
            "knn": found["knn"]["top1"],
            "corruptions": found["robustness"]["mean"] / found["robustness"]["clean"],
            "internal": found["internal"]["masked_0.5"] / found["internal"]["clean"],
            "pgd": found["attack"]["pgd_0.5"] / found["attack"]["clean"],
            "local": found["redundancy"]["local"],
        }
    return {"scores": scores, "train_seconds": last["time"], "last": last, "found": found}


def difference(found: dict[str, Any], claim: str) -> Difference | None:
    """Of the sums over the arms of both sides; None while there are less than two seeds of all."""
    score, more, less = CLAIMS[claim]
    seeds = set.intersection(*(set(found.get(arm, {})) for arm in more + less))

    def total(arms: tuple[str, ...]) -> dict[int, float]:
        return {seed: sum(found[arm][seed]["scores"][score] for arm in arms) for seed in seeds}

    return paired(total(more), total(less)) if len(seeds) > 1 else None


def table() -> str:
    """Markdown: scores by arm, what is claimed, and each claim's verdict."""
    found = kept(NAME)
    if not found:
        return "Not run yet: no verdict."
    lines = [*rows(found, WHOLE, SCORES), "", *rows(found, CROPS, LINEAR), ""]
    if "co-byol" in found:
        pace = [found[arm.name][0]["train_seconds"] / arm.options["max_steps"] for arm in (WHOLE[0], WHOLE[2])]
        lines += [f"Time of a step of CO-BYOL over BYOL's: {pace[1] / pace[0]:.2f}.", ""]
    lines += ["| claim | difference, 95% interval | verdict |", "|---|---|---|"]
    for claim in CLAIMS:
        d = difference(found, claim)
        lines.append(f"| {claim} | {d or ''} | {d.verdict if d else 'not run yet'} |")
    return "\n".join(lines)


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
