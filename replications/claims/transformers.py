"""Vision transformers on the parts world: DINO's attention, LOCA's locations."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import NET, RANDOM as UNTRAINED, VIT as SMALL_VIT, learns, method, more
from replications.plan import Arm, Claim, Statement

FIVE = tuple(range(5))
VIT: dict[str, Any] = {"backbone": f"{NET}vit_w64_p8", "lr": 1e-3}


def vit(name: str, scores: tuple[str, ...] = (), **options: Any) -> Arm:
    return Arm(f"{name}-vit", {"method": name, **VIT, **options}, scores, teacher=scores)


RANDOM = Arm("random-vit", {"backbone": VIT["backbone"]}, ("attention",))
DINO = vit("dino", ("attention",), small_crops=2, small_size=32)
SUPERVISED = Arm("supervised-vit", {"method": "replications.variants:Supervised", **VIT}, ("attention",))
ATTENTION = Claim(
    name="dino-attention",
    world="parts",
    arms=(RANDOM, DINO, SUPERVISED),
    seeds=FIVE,
    minutes=9,
    paper="Caron et al. DINO. ICCV 2021",
    text="The class token's attention, in the teacher, covers objects better than at random and than where labels were"
    " learnt.",
    published="ViT-S/16 on ImageNet: Jaccard index with VOC's masks: random 22.0, supervised 27.3, DINO 45.9.",
    statements=(
        more(
            "attends to objects more than at random",
            "teacher attention",
            "dino-vit",
            "random-vit",
            premise=learns("dino-vit", "random-vit", "linear"),
        ),
        more(
            "attends to objects more than with labels",
            "teacher attention",
            "dino-vit",
            "supervised-vit",
            premise=learns("supervised-vit", "random-vit", "linear"),
        ),
    ),
)
GAP = "teacher knn - teacher linear"
DINO_LEARNS = learns("dino-vit", "random-vit")
NEIGHBOURS = Claim(
    name="dino-knn",
    world="cifar10",  # on parts neighbours share their nuisance: VICReg has .13 there, and .52 by a linear probe
    arms=(
        UNTRAINED["random-vit"],
        Arm("dino-vit", {"method": "dino", **SMALL_VIT}, teacher=("knn", "linear")),
        method("msn"),
    ),
    seeds=FIVE,
    minutes=7,
    paper=ATTENTION.paper,
    text="kNN comes close to a linear classifier, closer than on the features of others (here MSN), in the teachers.",
    published="ViT-S/16 on ImageNet: kNN 74.5, linear 77.0.",
    statements=(
        Statement(
            "kNN within 5 points of linear",
            GAP,
            ("dino-vit",),
            margin=0.05,
            premise=DINO_LEARNS,
        ),
        more("closer than MSN's", GAP, "dino-vit", "msn", premise=DINO_LEARNS),
    ),
)
LOCA = vit("loca", small_crops=3, small_size=32)
PIECES = {
    "positions": Arm("loca-positions", {**LOCA.options, "method": "replications.variants:PositionsOnly"}),
    "clusters": Arm("loca-clusters", {**LOCA.options, "method": "replications.variants:ClustersOnly"}),
}


def segments(arm: str) -> Statement:
    """A premise."""
    return learns(arm, "random-vit", "miou")


LOCATIONS = Claim(
    name="loca",
    world="parts",
    arms=(RANDOM, DINO, LOCA, *PIECES.values()),
    seeds=FIVE,
    minutes=4,
    paper="Caron, Houlsby, Schmid. LOCA. WACV 2024",
    text="Predicting where a patch lies, and which cluster lies there, gives a transformer better dense features than"
    " an objective on whole images (DINO), and than either prediction alone.",
    published="ViT-B/16 on ImageNet, 100 epochs: 46.2 mIoU on ADE20k with a linear decoder.",
    statements=(
        more("segments better than DINO", "miou", "loca-vit", "dino-vit", premise=segments("dino-vit")),
        *(
            more(f"better than {piece} alone", "miou", "loca-vit", arm.name, premise=segments("loca-vit"))
            for piece, arm in PIECES.items()
        ),
    ),
    missing="Photographs (pets): 20 cells of 12 minutes.",
)
CLAIMS = (ATTENTION, NEIGHBOURS, LOCATIONS)
