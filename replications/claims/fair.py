"""Images that nobody chose, with and without their labels: who is served worse? (Goyal et al. 2022)."""

from __future__ import annotations

from replications.claims.arms import RANDOM, Arm, learns, more
from replications.plan import Claim

SCORES = ("class gap", "corrupted")
FAIR = Claim(
    name="fair",
    world="cifar10",
    arms=(
        RANDOM["random"],
        Arm("vicreg-mix", {"method": "vicreg"}, SCORES, ("mix",)),
        Arm("simclr-mix", {"method": "simclr"}, SCORES, ("mix",)),
        Arm("supervised-rare", {"method": "replications.variants:Supervised"}, SCORES, ("cifar10-rare",)),
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
        for arm in ("vicreg-mix", "simclr-mix")
        for statement in (
            more(f"{arm}: a smaller gap", "class gap", "supervised-rare", arm, premise=learns("supervised-rare")),
            more(f"{arm}: more under corruption", "corrupted", arm, "supervised-rare", premise=learns(arm)),
        )
    ),
    missing="Geolocation, art style and words of several languages are not attempted: there are no such data here.",
)
CLAIMS = (FAIR,)
