"""Photographs in their own shapes: NaViT."""

from __future__ import annotations

from replications.claims.arms import more
from replications.plan import Arm, Claim, Statement

BY_SHAPE = "replications.measures:by_shape"


def learns(arm: str) -> Statement:
    return Statement(f"{arm} learns", "linear_72 - random_72", (arm,))


NATIVE = Claim(
    name="navit-native",
    world="shapes",
    arms=(
        Arm("native", measure=BY_SHAPE),
        Arm("squeezed", sets=("clothing~squares@seed",), measure=BY_SHAPE),
    ),
    seeds=tuple(range(5)),
    minutes=9,
    paper="Dehghani et al. NaViT. NeurIPS 2023",
    text="A network that sees photographs of shapes from 1:3 to 3:1 as they are is better than one that sees them"
    " squeezed into squares of as many patches; one set of weights serves all resolutions, better with more patches.",
    published="ViT-B/16 on JFT-4B: packed, at sampled resolutions, the accuracy of the best ViT for a quarter of its"
    " computation; photographs in their own shapes are ahead of squeezed ones at as many patches.",
    statements=(
        more("its own shape is better than a square", "linear_72", "native", "squeezed", premise=learns("squeezed")),
        Statement(
            "more patches are better, the weights being the same",
            "linear_96 - linear_36",
            ("native",),
            premise=learns("native"),
        ),
    ),
    missing="That training on sampled resolutions costs less than on one would take 10 cells of 9 minutes.",
)
CLAIMS = (NATIVE,)
