"""Architectures: FlexiViT, XCiT, ResMLP and ViT-22B's blocks."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import COST, NET, learns, more
from replications.plan import Arm, Claim, Statement

FIVE = tuple(range(5))
PATCHES = 4, 8, 16
AT_PATCHES = tuple(f"knn, patch {patch}" for patch in PATCHES)
FLEXI: dict[str, Any] = {"method": "vicreg", "backbone": f"{NET}flexivit_w64", "max_steps": 600}


def moved(patch: int) -> Statement:
    """That at a patch it is above the ones that were trained at the others, the mean of both."""
    others = tuple(f"fixed-{p}" for p in PATCHES if p != patch)
    text = f"at {patch} px above those of other patches, in the mean"
    return Statement(text, f"knn, patch {patch}", ("flexi",) * len(others), others, least=0.02)


FLEXIBLE = Claim(
    name="flexivit",
    world="cifar10",
    arms=(
        Arm("random-flexi", {"backbone": f"{NET}flexivit_w64"}, AT_PATCHES),
        *(
            Arm(name, {**FLEXI, "patches": patches}, AT_PATCHES)
            for name, patches in {"flexi": [*PATCHES], **{f"fixed-{patch}": [patch] for patch in PATCHES}}.items()
        ),
    ),
    seeds=tuple(range(7)),  # at 16 px five left it open
    minutes=3.5,
    paper="Beyer et al. FlexiViT. CVPR 2023",
    text="Drawing the patch at each step gives one set of weights that is as good at every patch as one that was"
    " trained at that patch for as many steps; one trained at a single patch is not, at others. All have the same"
    " network, whose kernels and positions are resized; knn and linear in the table are at each one's own patch.",
    published="ViT-B on ImageNet-21k: FlexiViT-B matches ViT-B/16 and ViT-B/30, each at its own patch (figure 3).",
    statements=(
        *(
            more(
                f"at {p} px no worse than the one of that patch",
                f"knn, patch {p}",
                "flexi",
                f"fixed-{p}",
                margin=0.02,
                premise=learns(f"fixed-{p}", "random-flexi", f"knn, patch {p}"),
            )
            for p in PATCHES
        ),
        *(moved(p) for p in PATCHES),
    ),
    missing="Distillation from a large teacher; sizes of the paper.",
)
AT = {
    64: {"image_size": 64, "batch_size": 64, "max_steps": 400, "lr": 1e-3},
    256: {"image_size": 256, "batch_size": 8, "max_steps": 250},
}
"""Of the vision transformer; XCiT gets as long."""


def pair(size: int) -> tuple[Arm, ...]:
    """A vision transformer and an XCiT of as many tokens, in DINO, for as long."""
    told: dict[str, Any] = {"method": "dino", **AT[size]}
    steps = round(AT[size]["max_steps"] / COST[f"xcit-{size}"])
    return (
        Arm(f"random-vit-{size}", {"backbone": f"{NET}vit_w64_p8", "image_size": size}),
        Arm(f"random-xcit-{size}", {"backbone": f"{NET}xcit_w64_p8", "image_size": size}),
        Arm(f"vit-{size}", {**told, "backbone": f"{NET}vit_w64_p8"}, teacher=("knn",)),
        Arm(f"xcit-{size}", {**told, "backbone": f"{NET}xcit_w64_p8", "max_steps": steps}, teacher=("knn",)),
    )


CROSS_COVARIANCE = tuple(
    Claim(
        name=f"xcit-{size}",
        world="clothes",
        arms=pair(size),
        seeds=FIVE,
        minutes=minutes,
        paper="El-Nouby et al. XCiT. NeurIPS 2021",
        text="Attention between channels, whose cost grows linearly with the number of tokens, learns better features"
        " by DINO than attention between tokens in the same time, the more so on large images (256 px: enlarged). Each"
        " seed has its own fifth of the photographs for its test.",
        published="DINO on ImageNet, k-NN: ViT-S/16 74.5, XCiT-S12/16 76.0, XCiT-S12/8 77.1.",
        statements=(
            more(
                f"better kNN at equal time, {size} px",
                "teacher knn",
                f"xcit-{size}",
                f"vit-{size}",
                premise=learns(f"vit-{size}", f"random-vit-{size}", "teacher knn"),
            ),
            Statement(
                f"it gains more over its start, {size} px",
                "teacher knn",
                (f"xcit-{size}", f"random-vit-{size}"),
                (f"vit-{size}", f"random-xcit-{size}"),
                premise=learns(f"vit-{size}", f"random-vit-{size}", "teacher knn"),
            ),
        ),
    )
    for size, minutes in ((64, 3.5), (256, 7.5))
)
MLP = Claim(
    name="resmlp",
    world="cifar10",
    arms=(
        Arm("random-resmlp", {"backbone": f"{NET}resmlp_w64_p4"}),
        Arm(
            "dino-resmlp",
            {"method": "dino", "backbone": f"{NET}resmlp_w64_p4", "lr": 1e-3, "max_steps": 600},
            teacher=("linear",),
        ),
    ),
    seeds=FIVE,
    minutes=6,
    paper="Touvron et al. ResMLP. 2021",
    text="A network without attention or convolutions, in which patches interact by one linear layer, learns by DINO.",
    published="ResMLP-S12 on ImageNet, 300 epochs of DINO: k-NN 62.6, linear 67.5.",
    statements=(more("better linear than at random", "teacher linear", "dino-resmlp", "random-resmlp"),),
    missing="Translation between languages is not vision: not attempted.",
)
RATES = 1, 10, 30, 100


def at_rate(times: int, norm: str) -> Arm:
    """A supervised run at some times the usual rate, with queries and keys normalised, or without."""
    backbone = f"{NET}vit22b_w64_p4" + ("_no_qk_norm" if norm == "plain" else "")
    rate: dict[str, Any] = {"optimizer": "adamw", "lr": 1e-3 * times, "weight_decay": 0.05, "max_steps": 300}
    rate["checkpoint_steps"] = 10  # what a run that was stopped is measured on
    told = {"method": "replications.variants:Supervised", "backbone": backbone, **rate}
    return Arm(f"{norm}-lr{times}", told, measure="replications.measures:stability")


STABLE = Claim(
    name="qk-norm",
    world="cifar10",
    arms=tuple(at_rate(times, norm) for norm in ("normed", "plain") for times in RATES),
    seeds=FIVE,
    minutes=2,
    paper="Dehghani et al. ViT-22B. ICML 2023",
    text="With queries and keys normalised fewer runs diverge as the learning rate grows, and attention logits stay"
    " small.",
    published="ViT-8B diverges within some thousand steps, its attention logits above 50,000; with QK-norm it trains.",
    statements=(
        Statement(
            "fewer runs diverge, over all rates",
            "diverged",
            tuple(f"plain-lr{times}" for times in RATES),
            tuple(f"normed-lr{times}" for times in RATES),
        ),
        *(
            more(
                f"logits more than 10 times as large at rate ×{times}",
                "log10 logit",
                f"plain-lr{times}",
                f"normed-lr{times}",
                least=0.3,
                margin=-1.0,
            )
            for times in RATES[1:]
        ),
    ),
    missing="Shape bias and fairness (table 12): they need a model that classifies ImageNet.",
)
CLAIMS = (FLEXIBLE, *CROSS_COVARIANCE, MLP, STABLE)
