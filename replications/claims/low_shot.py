"""Few labels: PAWS, which sees them in pretraining, and MSN, which leaves out patches."""

from __future__ import annotations

from replications.claims.arms import FEW, RANDOM, learns, method, more
from replications.plan import Arm, Claim

FIVE = tuple(range(5))
LEARNS = learns("vicreg-labels")
PAWS = Claim(
    name="paws",
    world="cifar10",
    arms=(
        RANDOM["random"],
        Arm("vicreg-labels", {"method": "vicreg"}, measure="replications.measures:own_labels"),
        method("paws", "-5", labelled=5),
        method("paws", "-10", labelled=10),
    ),
    seeds=FIVE,
    minutes=7,
    paper="Assran et al. PAWS. ICCV 2021",
    text="With the labels of a few images in pretraining, features serve better where labels are few than the best"
    " without them (here VICReg, by the pilots). Each is classified by logistic regression on the labels that PAWS was"
    " pretrained with.",
    published="ResNet-50 on ImageNet, 1% of labels, fine-tuned: 66.5 (SimCLR 48.3, by Caron et al. 2020).",
    statements=tuple(
        more(f"better with {shots} labels a class", f"shot{shots}", f"paws-{shots}", "vicreg-labels", premise=LEARNS)
        for shots in (5, 10)
    ),
    missing="One label a class: with a support of ten images PAWS's targets say little; 5 cells of 7 minutes.",
)
MSN = Claim(
    name="msn",
    world="cifar10",
    arms=(RANDOM["random-vit"], method("msn"), method("msn", "-whole", FEW, patch_drop=0.0)),
    seeds=FIVE,
    minutes=7,
    paper="Assran et al. MSN. ECCV 2022",
    text="Leaving out patches of the anchor view makes features, here the teacher's, that serve better where labels are"
    " few.",
    published="ViT-L/7 on ImageNet: 72.4 with 5 labels a class; ViT-B/4, 1% of labels: 75.7.",
    statements=tuple(
        more(
            f"better with {shots} labels a class",
            f"teacher shot{shots}",
            "msn",
            "msn-whole",
            premise=learns("msn", "random-vit"),
        )
        for shots in (1, 5, 10)
    ),
)
CLAIMS = (PAWS, MSN)
