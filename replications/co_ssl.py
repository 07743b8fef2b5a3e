"""CO-BYOL against BYOL: accuracy, robustness, redundancy, training crops (Aubret, Teulière, Triesch 2025).

Claims (arXiv:2501.02860): letting each cell of a view predict the other view as a whole gives better linear accuracy at
the same budget; more robustness to noise, to activations lost inside the network and to small attacks; local
representations that are more redundant; and it bears large training crops, the more so with a small receptive field.
Published: RF-ResNet-50 on ImageNet, 100 epochs, 71.5% linear.

Protocol, written before it was run. A ResNet of 8 convolutions in four blocks (replications/thin_resnet.py) at 64 px,
with a receptive field of 79 px and 8×8 cells; the `small` recipe of each method, a teacher's momentum of .97 at the
start (published: .99, whose memory is a third of this run), 16 cells drawn from each map, batch 64, 300 steps on the
training images of clothing + pets + camvid together (3,735). `byol-time` is BYOL for as many more steps as CO-BYOL
takes more time a step. Last step, test split of clothing: kNN, linear; mean corruption accuracy (15 corruptions,
severities 1, 3, 5), accuracy with 50% of the last stage's activations lost, and under PGD of .5/255, each as a share of
the clean accuracy, on 250 images; the mean cosine between an image's cells. Training crops: of at least .7 of the
image's area in place of .08, and the same with a receptive field of 195 px (2×2 cells). Three seeds, differences paired
by seed. Chosen in one trial of BYOL on another seed: this network and momentum, since a ResNet-18 did not come to
exceed its random initialisation in 100 steps.

Verdict rule, for each claim by itself: "reproduced" if the 95% interval of its difference lies above 0, "not
reproduced" if below 0, else "undecided".

Added when the first seed was in, and marked so: accuracy itself under corruptions, loss of activations and PGD, because
a share of the clean accuracy rewards an encoder that has little to lose (guessing is right in one of ten); and that the
claims about large training crops presume that these do harm, without which they are "premise not met".

    python -m replications.co_ssl --data DIR       # DIR/{clothing,pets,camvid}
    python -m replications.co_ssl --table          # from what is kept
"""

from __future__ import annotations

import statistics
import sys
from pathlib import Path
from typing import Any

import glocal
from replications.protocol import RUN, SEEDS, Arm, Difference, kept, paired, place, replicate, rows, trained, untrained

NAME = "co_ssl"
STEPS, SLOWER = 300, 1.15
COMMON: dict[str, Any] = {
    "preset": "small",
    "momentum": 0.97,
    "image_size": 64,
    "batch_size": 64,
    "max_steps": STEPS,
}
BYOL = {"method": "byol", "backbone": "replications.thin_resnet:thin_rf79"}
CO_BYOL = {**BYOL, "method": "co-byol", "cells": 16}
RF195 = {"backbone": "replications.thin_resnet:thin_rf195"}
LARGE = {"scale": [0.7, 1.0]}
WHOLE = [
    Arm("random", {"backbone": BYOL["backbone"]}),
    Arm("byol", BYOL),
    Arm("byol-time", {**BYOL, "max_steps": round(STEPS * SLOWER)}),
    Arm("co-byol", CO_BYOL),
]
CROPS = [
    Arm("byol-large-crops", BYOL | LARGE),
    Arm("co-byol-large-crops", CO_BYOL | LARGE),
    Arm("co-byol-rf195", CO_BYOL | RF195),
    Arm("co-byol-rf195-large-crops", CO_BYOL | RF195 | LARGE),
]
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
AFTERWARDS = {"corrupted": "under corruptions", "masked": "under loss of activations", "attacked": "under PGD"}
LINEAR = {"linear": "clothing linear"}
# what is claimed -> (score, arms that have more, arms that have less)
CLAIMS: dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "more accurate at equal epochs": ("linear", ("co-byol",), ("byol",)),
    "more accurate at equal time": ("linear", ("co-byol",), ("byol-time",)),
    "keeps more under corruptions": ("corruptions", ("co-byol",), ("byol",)),
    "keeps more when activations are lost": ("internal", ("co-byol",), ("byol",)),
    "keeps more under PGD": ("pgd", ("co-byol",), ("byol",)),
    "local representations are more redundant": ("local", ("co-byol",), ("byol",)),
    "more accurate under corruptions (added)": ("corrupted", ("co-byol",), ("byol",)),
    "more accurate when activations are lost (added)": ("masked", ("co-byol",), ("byol",)),
    "more accurate under PGD (added)": ("attacked", ("co-byol",), ("byol",)),
    "bears large training crops better than BYOL": (
        "linear",
        ("co-byol-large-crops", "byol"),
        ("co-byol", "byol-large-crops"),
    ),
    "bears them the better, the smaller the receptive field": (
        "linear",
        ("co-byol-large-crops", "co-byol-rf195"),
        ("co-byol", "co-byol-rf195-large-crops"),
    ),
}
# what a claim presumes to do harm -> (with it, without it)
PREMISES = {
    "bears large training crops better than BYOL": ("byol-large-crops", "byol"),
    "bears them the better, the smaller the receptive field": ("co-byol-rf195-large-crops", "co-byol-rf195"),
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
    options, result = {**RUN, **COMMON, **arm.options}, {}
    if "method" in options:
        folder = runs / f"{NAME}-{arm.name}-{seed}"
        encoder, last = trained(folder, [place(data, name) for name in SETS], seed, options)
        result = {"train_seconds": last["time"], "last": last}
    else:
        encoder = untrained(options, seed)
    tasks = TASKS if arm in WHOLE else {"linear": {}}
    found = glocal.evaluate(encoder, place(data, "clothing"), tasks=list(tasks), image_size=64, task_options=tasks)
    scores = {"linear": found["linear"]["top1"]}
    if arm in WHOLE:
        scores |= {
            "knn": found["knn"]["top1"],
            "corruptions": found["robustness"]["mean"] / found["robustness"]["clean"],
            "internal": found["internal"]["masked_0.5"] / found["internal"]["clean"],
            "pgd": found["attack"]["pgd_0.5"] / found["attack"]["clean"],
            "local": found["redundancy"]["local"],
        }
    return {"scores": scores, **result, "found": found}


def results() -> dict[str, dict[int, dict[str, Any]]]:
    """What is kept, with the scores that were added afterwards."""
    everything = kept(NAME)
    for runs in everything.values():
        for result in runs.values():
            if "robustness" in (found := result["found"]):
                attacked, masked = found["attack"]["pgd_0.5"], found["internal"]["masked_0.5"]
                result["scores"] |= {"corrupted": found["robustness"]["mean"], "masked": masked, "attacked": attacked}
    return everything


def compared(kept_: dict[str, Any], score: str, more: tuple[str, ...], less: tuple[str, ...]) -> Difference | None:
    """The sum over some arms less that over others; None while there are less than three seeds of all."""
    seeds = set.intersection(*(set(kept_.get(arm, {})) for arm in more + less))

    def total(arms: tuple[str, ...]) -> dict[int, float]:
        return {seed: sum(kept_[arm][seed]["scores"][score] for arm in arms) for seed in seeds}

    return paired(total(more), total(less)) if len(seeds) >= SEEDS else None


def judged(kept_: dict[str, Any], claim: str) -> str:
    """A row of the table of claims."""
    difference = compared(kept_, *CLAIMS[claim])
    verdict = difference.verdict if difference else "not run yet"
    if difference and claim in PREMISES:
        harmed, unharmed = PREMISES[claim]
        harm = compared(kept_, "linear", (harmed,), (unharmed,))
        if harm and harm.mean >= 0:
            verdict = f"premise not met ({harmed} − {unharmed}: {harm})"
    return f"| {claim} | {difference or ''} | {verdict} |"


def table() -> str:
    """Markdown: scores by arm, what is claimed, and each claim's verdict."""
    found = results()
    if not found:
        return "Not run yet: no verdict."

    def cost(arm: str) -> float:
        """Of training alone: what an untrained network costs is evaluation."""
        each = {name: [result["cpu_seconds"] for result in found[name].values()] for name in (arm, "random")}
        return statistics.median(each[arm]) - statistics.median(each["random"])

    lines = [*rows(found, WHOLE, SCORES | AFTERWARDS), "", *rows(found, CROPS, LINEAR), ""]
    if {"byol", "co-byol", "random"} <= found.keys():
        lines += [f"Processor time of training, CO-BYOL over BYOL: {cost('co-byol') / cost('byol'):.2f}.", ""]
    return "\n".join(
        [*lines, "| claim | difference, 95% interval | verdict |", "|---|---|---|"] + [judged(found, c) for c in CLAIMS]
    )


def picture(path: Path) -> None:
    """Accuracy against the severity of corruptions, means over seeds."""
    found = kept(NAME)
    arms = [arm for arm in ("random", "byol", "co-byol") if arm in found]
    scores = {arm: [result["found"]["robustness"] for result in found[arm].values()] for arm in arms}
    keys = ("clean", "severity_1", "severity_3", "severity_5", "relative_drop")
    means = {arm: {key: statistics.fmean(r[key] for r in scores[arm]) for key in keys} for arm in arms}
    robustness_curve(means, path)


def robustness_curve(scores: dict[str, dict[str, float]], path: Path | str) -> None:
    """Draw the mean accuracy under 15 corruptions at each severity, 0 being clean images.

    Args:
        scores: name of an encoder -> its scores of the task `robustness`; three of them at most.
        path: the picture, .png or .svg.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    colours = ("#1f5fbf", "#c2571a", "#14804a")
    figure = Figure(figsize=(6.4, 3.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for colour, (name, found) in zip(colours, scores.items(), strict=False):
        severities = sorted(int(key.removeprefix("severity_")) for key in found if key.startswith("severity_"))
        x, y = [0, *severities], [100 * found["clean"], *(100 * found[f"severity_{s}"] for s in severities)]
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.75, color=colour)
        ends.append((y[-1], x[-1], f"{name} (−{100 * found['relative_drop']:.0f}%)", colour))
    low, high = axes.get_ylim()
    height = low - (high - low)  # names are kept a line apart from below
    for y_end, x_end, text, colour in sorted(ends):
        height = max(y_end, height + 0.06 * (high - low))
        axes.annotate(text, (x_end, height), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=9)
    axes.margins(x=0.02)
    axes.set_xticks(range(1 + max(end[1] for end in ends)))
    axes.set_xlabel("severity of the corruption (0: clean images)")
    axes.set_ylabel("linear accuracy, % (mean of the corruptions)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e9eae6")
    axes.set_axisbelow(True)
    with rc_context({"svg.hashsalt": "glocal"}):  # the same scores, the same file
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
