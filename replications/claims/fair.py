"""Images that nobody chose, with and without their labels: who is served worse? (Goyal et al. 2022)."""

from __future__ import annotations

from replications.claims.arms import GAP, RANDOM, Arm, learns, method, more
from replications.plan import Claim, Statement

SCORES = (GAP, "corrupted")
SUPERVISED = "replications.variants:Supervised"
RARE_SUFFER = more("labels serve classes worse that are rare", GAP, "supervised-rare", "supervised")


def smaller_gap(name: str) -> Statement:
    """By how much the gap grows where half of the classes are rare, which takes out that these are harder or easier."""
    return Statement(
        f"{name}: rare classes suffer less",
        GAP,
        more=("supervised-rare", name),
        less=("supervised", f"{name}-mix"),
        premise=RARE_SUFFER,
    )


FAIR = Claim(
    name="fair",
    world="cifar10",
    arms=(
        RANDOM["random"],
        Arm("vicreg-mix", {"method": "vicreg"}, SCORES, ("mix",)),
        Arm("simclr-mix", {"method": "simclr"}, SCORES, ("mix",)),
        Arm("supervised-rare", {"method": SUPERVISED}, SCORES, ("cifar10-rare",)),
        method("vicreg"),
        method("simclr"),
        Arm("supervised", {"method": SUPERVISED}, (GAP,)),
    ),
    seeds=tuple(range(5)),
    minutes=7,
    paper="Goyal et al. Vision Models Are More Robust And Fair. 2022",
    text="Features learnt without labels from images that nobody chose serve the classes that were rare there almost as"
    " well as the frequent ones, more so than features learnt from the labels of the same images; and they keep more"
    " under corruption.",
    published="RegNet-10B on a billion images, gaps by gender, skin and age smaller than supervised ones; ImageNet-A"
    " and -R above supervised models.",
    statements=tuple(
        statement
        for name in ("vicreg", "simclr")
        for statement in (
            smaller_gap(name),
            more(
                f"{name}: more under corruption",
                "corrupted",
                f"{name}-mix",
                "supervised-rare",
                premise=learns(f"{name}-mix"),
            ),
        )
    ),
    missing="Accuracy under corruption follows that without it: labels teach more of ten classes than no labels do, and"
    " about as much of it is lost. The paper sets a billion images without labels against ImageNet's labels."
    " Geolocation, art style and words of several languages are not attempted: there are no such data here.",
)
CLAIMS = (FAIR,)
