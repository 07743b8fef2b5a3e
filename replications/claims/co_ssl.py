"""CO-SSL: each location of a view predicts the other view as a whole."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import COST, NET, RANDOM, learns, method, more
from replications.plan import Claim, Statement
from replications.worlds import CIFAR10

LEARNS = learns("byol")
SHARED: dict[str, Any] = {
    "world": "cifar10",
    "paper": "Aubret, Teulière, Triesch. CO-SSL. 2025",
    "published": "RF-ResNet-50 on ImageNet, 100 epochs: linear 71.5.",
}
STEPS = round(CIFAR10.options["max_steps"] * COST["co-byol"])
AGAINST_BYOL = Claim(
    name="co-ssl",
    arms=(RANDOM["random"], method("byol"), method("co-byol"), method("byol", "-time", max_steps=STEPS)),
    seeds=tuple(range(12)),
    minutes=8,
    text="CO-BYOL is more accurate than BYOL, also at equal time; corruptions, lost activations and small attacks harm"
    " it less; the locations of an image are more alike.",
    statements=(
        more("more accurate at equal steps", "linear", "co-byol", "byol", premise=LEARNS),
        more("more accurate at equal time", "linear", "co-byol", "byol-time", premise=LEARNS),
        more("more accurate under corruptions", "corrupted", "co-byol", "byol", premise=LEARNS),
        more("more accurate when activations are lost", "masked", "co-byol", "byol", premise=LEARNS),
        more("more accurate under PGD", "attacked", "co-byol", "byol", premise=LEARNS),
        more("locations more alike", "local", "co-byol", "byol", premise=LEARNS),
    ),
    **SHARED,
)
PAIRS = (("dino", "co-dino"), ("mocov3", "co-mocov3"))
OTHER_PAIRS = Claim(
    name="co-ssl-pairs",
    arms=(RANDOM["random"], *(method(name) for pair in PAIRS for name in pair)),
    seeds=tuple(range(5)),
    minutes=6,
    text="The same change makes DINO and MoCo-v3 more accurate.",
    statements=tuple(
        more(f"{ours} more accurate than {theirs}", "linear", ours, theirs, premise=learns(theirs))
        for theirs, ours in PAIRS
    ),
    missing="Arms of equal time for both would take 10 cells of 7 minutes.",
    **SHARED,
)
LARGE = {"scale": (0.7, 1.0)}
FIELD = {"backbone": f"{NET}rn8_w16_s8_rf19"}
CROPS = Claim(
    name="co-ssl-crops",
    arms=(
        method("byol"),
        method("co-byol"),
        method("byol", "-large", **LARGE),
        method("co-byol", "-large", **LARGE),
        method("co-byol", "-rf19", **FIELD),
        method("co-byol", "-rf19-large", **FIELD, **LARGE),
    ),
    seeds=tuple(range(5)),
    minutes=6,
    text="CO-BYOL bears large training crops better than BYOL, the more so the smaller its receptive field.",
    statements=(
        Statement(
            "bears large crops better than BYOL",
            "linear",
            more=("co-byol-large", "byol"),
            less=("co-byol", "byol-large"),
            premise=more("large crops harm BYOL", "linear", "byol", "byol-large"),
        ),
        Statement(
            "bears them better with a smaller field",
            "linear",
            more=("co-byol-rf19-large", "co-byol"),
            less=("co-byol-rf19", "co-byol-large"),
            premise=more("large crops harm CO-BYOL", "linear", "co-byol", "co-byol-large"),
        ),
    ),
    **SHARED,
)
CLAIMS = (AGAINST_BYOL, OTHER_PAIRS, CROPS)
