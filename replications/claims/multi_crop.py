"""Small crops, which only predict."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import COST, RANDOM, learns, method, more
from replications.plan import Claim
from replications.worlds import CIFAR10

SMALL: dict[str, Any] = {"small_crops": 4, "small_size": 16}
MULTI = SMALL | {"small_scale": (0.1, 0.4)}
"""Of a twentieth, as in the paper, they would be squares of seven pixels."""
CLAIMS = (
    Claim(
        name="multi-crop",
        world="cifar10",
        arms=(
            RANDOM["random"],
            method("swav"),
            method("swav", "-multi", **MULTI),
            method("swav", "-time", max_steps=round(CIFAR10.options["max_steps"] * COST["multi-crop"])),
            method("dino"),
            method("dino", "-multi", **MULTI),
        ),
        seeds=tuple(range(5)),
        minutes=6,
        paper="Caron et al. SwAV. NeurIPS 2020",
        text="Further crops of low resolution improve SwAV by more than they cost; and another method too.",
        published="ResNet-50 on ImageNet, 400 epochs, linear: 70.1 with 2 crops of 224 px, 74.6 with 6 more of 96 px.",
        statements=(
            more("better at equal steps", "linear", "swav-multi", "swav", premise=learns("swav")),
            more("better at equal time", "linear", "swav-multi", "swav-time", premise=learns("swav")),
            more("DINO better at equal steps", "linear", "dino-multi", "dino", premise=learns("dino")),
        ),
    ),
)
