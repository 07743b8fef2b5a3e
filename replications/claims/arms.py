"""The arms of CIFAR-10 that claims share: each method by its recipe for small data, and what it begins with."""

from __future__ import annotations

from typing import Any

from replications.plan import Arm, Statement

NET = "replications.networks:"
EDGES = {"backbone": f"{NET}sobel_rn8_w16_s8"}
VIT = {"backbone": f"{NET}vit_w64_p4"}
SMALL_CROPS = {"small_size": 16}
"""Of those methods that always take some: four patches a side; their large crops begin where these end."""
RANDOM = {
    "random": Arm("random"),
    "random-edges": Arm("random-edges", EDGES),
    "random-vit": Arm("random-vit", VIT),
    "random-vit-mean": Arm("random-vit-mean", VIT | {"pool": "mean"}),
}
BEGIN = {"deepcluster": "random-edges", "deepercluster": "random-edges", "msn": "random-vit", "loca": "random-vit-mean"}
WHOLE_EPOCHS = {"max_steps": 1560}
"""Four of CIFAR-10: none ends soon after its clusters were named anew."""
OPTIONS: dict[str, dict[str, Any]] = {
    "deepcluster": EDGES | WHOLE_EPOCHS,
    "deepcluster_v2": WHOLE_EPOCHS,
    "deepercluster": EDGES | WHOLE_EPOCHS,
    "msn": VIT | SMALL_CROPS | {"scale": (0.3, 1.0)},
    "loca": VIT | SMALL_CROPS | {"scale": (0.32, 1.0)},
    "paws": {"scale": (0.4, 1.0)},
}
FEW = ("shot1", "shot5", "shot10", "labels1%", "labels10%")
GAP = "class gap"
ROBUST = ("clean", "corrupted", "severity 1", "severity 3", "severity 5", "masked", "attacked", "local")
SCORES = {
    "byol": ROBUST,
    "co-byol": ROBUST,
    "directclr": ("rank",),
    "vicreg": (*FEW, GAP),
    "simclr": (GAP,),
    "msn": FEW,
}
MEASURES = {
    "deepcluster": "replications.measures:rising_nmi",
    "vicreg": "replications.measures:normality",
    "paws": "replications.measures:own_labels",
}
TEACHER = {"msn": (*FEW[:3], "knn", "linear")}
COST = {"vicregl": 1.19, "co-byol": 2.06, "multi-crop": 1.8, "xcit-64": 1.29, "xcit-256": 0.67}
"""Processor time a step over that of the arm without, measured side by side by `python -m replications costs`."""


def method(name: str, suffix: str = "", scores: tuple[str, ...] = (), **options: Any) -> Arm:
    """A method's arm, named with a suffix where options differ from its own, and then without its usual `SCORES`."""
    return Arm(
        name + suffix,
        {"method": name, **OPTIONS.get(name, {}), **options},
        scores=scores if suffix else SCORES.get(name, ()),
        measure=MEASURES.get(name, ""),
        teacher=TEACHER.get(name, ()),
    )


def more(text: str, score: str, arm: str, than: str, **options: Any) -> Statement:
    """That one arm has more of a score than another."""
    return Statement(text, score, (arm,), (than,), **options)


def learns(arm: str, begin: str = "random", score: str = "knn") -> Statement:
    """A premise: that an arm has more of a score than the weights it began with."""
    return more(f"{arm} learns", score, arm, begin)
