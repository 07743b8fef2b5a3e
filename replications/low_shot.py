"""PAWS and MSN are better where labels are few (Assran et al., ICCV 2021 and ECCV 2022).

Claim: PAWS, which sees the few labels during pretraining already, and MSN, which sees none, beat self-supervision of
their time at classification with very few labels. Published on ImageNet: PAWS, ResNet-50, 1% of the labels, fine-tuned,
66.5 (SimCLR 48.3, as given by Caron et al. 2020); MSN, 1% of the labels, ViT-B/4, 75.7, and 72.4 with 5 images a class.

Protocol, written before it was run. Pretrain on the training images of clothing (3,068), batch 64. A ResNet of 8
convolutions at 64 px (replications/thin_resnet.py): PAWS for 300 steps, with 10 labelled images a class of which each
batch brings 4, and SimCLR for 390, since those 40 crops beside 128 cost as much (LARS at the rates glocal decides for
short runs). A vision transformer of width 64 (timm's `test_vit`, 16 px patches, 36 of them in crops of 96 px, 2 small
crops of 48 px): MSN and DINO, 400 steps, AdamW at lr 1e-3 for both. Evaluate the last step on clothing, test split, by
linear probes on frozen features: with the very 10 images a class that PAWS sees (chosen by the seed; learning rate and
decay on a fifth of them), and, for comparison, with all labels. Three seeds, differences paired by seed; about 2 to 3
processor minutes an arm and seed.

Verdict rule. With 10 labels a class: each difference below is "reproduced" if its 95% interval lies above 0, "not
reproduced" if below 0, else "undecided"; the claim is reproduced if both are, and not reproduced if one is not.

    python -m replications.low_shot --data DIR      # DIR/clothing
    python -m replications.low_shot --table         # from what is kept
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from glocal.data import Subset, open_source
from glocal.evaluation.extract import extract
from glocal.evaluation.linear import LRS, WDS, Training, linear_probe
from glocal.views.support import choose_labelled
from replications.protocol import Arm, Claim, Score, claims_table, place, replicate, run_arm

NAME = "low_shot"
LABELLED = 10
SETS = ("clothing",)
COMMON: dict[str, Any] = {"batch_size": 64}
CONVOLUTIONAL = {"backbone": "replications.thin_resnet:thin_rf195", "image_size": 64}
TRANSFORMER = {"backbone": "test_vit", "image_size": 96}
LONG = {"max_steps": 400, "lr": 1e-3, "small_crops": 2, "small_size": 48, "precision": "32-true"}
ARMS = [
    Arm("random", CONVOLUTIONAL),
    Arm("simclr", {"method": "simclr", **CONVOLUTIONAL, "max_steps": 390}),
    Arm("paws", {"method": "paws", **CONVOLUTIONAL, "max_steps": 300, "labelled": LABELLED, "support_images": 4}),
    Arm("random-vit", TRANSFORMER),
    Arm("dino", {"method": "dino", **TRANSFORMER, **LONG}),
    Arm("msn", {"method": "msn", **TRANSFORMER, **LONG}),
]
SCORES = {"linear": Score("linear, all labels", "clothing", "linear")}
CLAIMS = (Claim("paws", "simclr", "few"), Claim("msn", "dino", "few"))


def with_few(encoder: Any, data: Path, seed: int) -> dict[str, float]:
    """Accuracy on the test images of a linear probe that learnt from the images whose labels PAWS sees."""
    train, test = (open_source(place(data, SETS[0]), split=split) for split in ("train", "test"))
    chosen = np.concatenate(choose_labelled(train, LABELLED, seed))
    few, every = (extract(encoder, each, image_size=encoder.image_size) for each in (Subset(train, chosen), test))
    assert few.labels is not None
    assert every.labels is not None
    settings = list(product(LRS, WDS))
    standardise, probe, _ = linear_probe(
        few.pooled, few.labels, int(few.labels.max()) + 1, settings, Training(seed=seed)
    )
    predicted = probe.logits(standardise(every.pooled))[:, 0].argmax(-1)
    return {"few": float((predicted == every.labels).float().mean())}


def run(arm: Arm, seed: int, data: Path, runs: Path) -> dict[str, Any]:
    """Train and score."""
    return run_arm(sys.modules[__name__], arm, seed, data, runs, lambda encoder: with_few(encoder, data, seed))


def table() -> str:
    """Markdown: scores by arm, paired differences, verdict."""
    return claims_table(sys.modules[__name__], {"few": f"linear, {LABELLED} labels a class"})


if __name__ == "__main__":
    replicate(sys.modules[__name__], run)
