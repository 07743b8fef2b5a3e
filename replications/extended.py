"""Cells that extend released encoders: classes that come later, keypoints; see `replications.plan.Arm.run`."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from torch import Tensor

import glocal
from glocal.adaptation.keypoints import Locate
from glocal.data import open_source
from glocal.evaluation.lowshot import draw_labelled
from glocal.features import Features
from glocal.run import Run
from replications.data import FOLDS, place, released

WAYS = "naive", "replay", "nearest_mean", "mtn", "joint"
MACHINE: dict[str, Any] = {
    "accelerator": "cpu", "precision": "32", "workers": 0, "threads": 1, "report": False, "quiet": True
}  # fmt: skip


class Detector(Locate):
    """Keypoints by the heat-maps of the detector alone, which trains for the whole run."""

    def forward(self, features: Features) -> Tensor:
        """Logarithms of heat-maps (B, J, H, W), but for a constant of each."""
        return self.heat(features)


def classes(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Average accuracy, and what was forgotten, when classes come in steps; the seed draws their order."""
    encoder = glocal.load(released(data, options["backbone"]), image_size=options["image_size"])
    asked: dict[str, Any] = {"limit": options["limit"], "seed": seed, "task_options": {"incremental": options["task"]}}
    found = glocal.evaluate(encoder, place(data, "cifar10"), tasks=["incremental"], **asked)["incremental"]
    return {way: found[way] for way in WAYS} | {f"{way} forgets": found["forgetting"][way] for way in WAYS}


def keypoints(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """The share of joints that are found, on a quarter of the people; the seed draws these, and those with labels."""
    asked = {name: options[name] for name in ("image_size", "head", "labels")}
    out = folder / "run"
    asked |= {"hold_out": 0.25, "seed": seed, **MACHINE}
    glocal.finetune(released(data, options["backbone"]), place(data, "lspet"), out=str(out), **asked)
    return {"pck": Run(out).scores()[options["head"]]["pck"]}


def few_labels(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Accuracy on a fold of clothing from few images of each class, by `finetune` and by logistic regression on them.

    The seed draws these and says which fold; `train` is what learns of the encoder.
    """
    encoder, size, shots = released(data, options["backbone"]), options["image_size"], options["shots"]
    images = place(data, f"clothing@{seed % FOLDS}")
    source = open_source(images, split="train")
    assert source.labels is not None
    assert source.classes is not None
    drawn = draw_labelled(source.labels, shots, seed, 0)
    with (folder / "few.csv").open("w", newline="") as file:
        names = [[str(Path(images, source.key(i)).resolve()), source.classes[source.labels[i]]] for i in drawn]
        csv.writer(file).writerows([["path", "label"], *names])
    if options["train"] == "logistic":
        asked: dict[str, Any] = {"shots": [shots], "shares": [], "draws": 1}
        opened = glocal.load(encoder, image_size=size)
        found = glocal.evaluate(opened, images, tasks=["lowshot"], seed=seed, task_options={"lowshot": asked})
        return {"accuracy": found["lowshot"][f"logistic_{shots}"]}
    out = glocal.finetune(
        encoder, str(folder / "few.csv"), train=options["train"], hold_out=0, image_size=size, seed=seed,
        out=str(folder / "run"), **MACHINE,
    )  # fmt: skip
    said = glocal.predict(str(out), images, split="test")
    pairs = zip(said.paths, said.labels, strict=True)
    return {"accuracy": fmean(Path(path).parent.name == label for path, label in pairs)}
