"""Cells that extend released encoders: classes that come later, keypoints; see `replications.plan.Arm.run`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

import glocal
from glocal.adaptation.keypoints import Locate
from glocal.features import Features
from glocal.run import Run
from replications.data import place

WAYS = "naive", "replay", "nearest_mean", "mtn", "joint"


class Detector(Locate):
    """Keypoints by the heat-maps of the detector alone, which trains for the whole run."""

    def forward(self, features: Features) -> Tensor:
        """Logarithms of heat-maps (B, J, H, W), but for a constant of each."""
        return self.heat(features)


def weights(options: Mapping[str, Any]) -> str:
    """The file of a released network."""
    return str(Path(os.environ["GLOCAL_WEIGHTS"]) / f"{options['backbone']}.safetensors")


def classes(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """Average accuracy, and what was forgotten, when classes come in steps; the seed draws their order."""
    encoder = glocal.load(weights(options), image_size=options["image_size"])
    asked: dict[str, Any] = {"limit": options["limit"], "seed": seed, "task_options": {"incremental": options["task"]}}
    found = glocal.evaluate(encoder, place(data, "cifar10"), tasks=["incremental"], **asked)["incremental"]
    return {way: found[way] for way in WAYS} | {f"{way} forgets": found["forgetting"][way] for way in WAYS}


def keypoints(data: Path, folder: Path, seed: int, options: Mapping[str, Any]) -> dict[str, float]:
    """The share of joints that are found, on a quarter of the people; the seed draws these, and those with labels."""
    machine: dict[str, Any] = {"accelerator": "cpu", "precision": "32", "workers": 0, "threads": 1}
    asked = {name: options[name] for name in ("image_size", "head", "labels")}
    out = folder / "run"
    asked |= {"hold_out": 0.25, "seed": seed, "report": False, "quiet": True, **machine}
    glocal.finetune(weights(options), place(data, "lspet"), out=str(out), **asked)
    return {"pck": Run(out).scores()[options["head"]]["pck"]}
