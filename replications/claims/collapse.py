"""What keeps each method from collapse: with and without it."""

from __future__ import annotations

from typing import Any

from replications.plan import Arm, Claim, Statement

TEACHER = {"momentum": 0.95}
HEAD = {"outputs": 256, "head_norm": "none"}


def arm(name: str, method: str, **options: Any) -> Arm:
    return Arm(name, {"method": method, **options}, measure="replications.measures:collapse")


ARMS = (
    Arm("random"),
    arm("dino", "dino", **HEAD, **TEACHER),
    arm("dino-without-centring", "dino", **HEAD, **TEACHER, center_momentum=1.0),
    arm("dino-without-sharpening", "dino", **HEAD, **TEACHER, teacher_temperature=(0.1, 0.1)),
    arm("vicreg", "vicreg"),
    arm("vicreg-without-variance", "vicreg", variance_weight=0.0),
    arm("swav", "swav"),
    arm("swav-without-balance", "swav", rounds=0),
    arm("byol", "byol", **TEACHER),
    arm("byol-without-predictor", "replications.variants:NoPredictor", **TEACHER),
    arm("simsiam", "replications.variants:SimSiam"),
    arm("simsiam-without-stop", "replications.variants:NoStopGradient"),
)
CLAIMS = (
    Claim(
        name="collapse",
        world="collapse",
        arms=ARMS,
        seeds=(0, 1, 2),
        minutes=2,
        paper="What keeps methods from collapse",
        text="Features collapse when DINO's centring or sharpening (Caron et al. 2021, section 5.3), VICReg's variance"
        " term (Bardes et al. 2022, table 7), SwAV's equal shares (Caron et al. 2020, section 3.1), BYOL's predictor"
        " (Grill et al. 2020, table 5) or the stop-gradient of SimSiam (Chen and He 2021, table 1) is taken away. A run"
        " has collapsed if the spread of its outputs is below .01 or their rank below 3, or, for VICReg, whose"
        " embeddings have a scale, their deviation below .1.",
        published="SimSiam, ResNet-50 on ImageNet, linear: 67.7 -> 0.1 without its stop-gradient.",
        statements=tuple(
            Statement(each.name, "collapsed", (each.name,), (each.name.partition("-without")[0],), every_seed=True)
            for each in ARMS
            if "-without" in each.name
        ),
    ),
)
