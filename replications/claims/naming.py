"""Naming: retrieval beside contrast (RECO), and names as codes (GER)."""

from __future__ import annotations

from replications.claims.arms import more
from replications.plan import Arm, Claim, Statement

RECO = Claim(
    name="reco",
    world="own",
    arms=tuple(
        Arm(f"reco-{arm}", {"arm": arm}, run="replications.naming:reco")
        for arm in ("uni-cross", "uni-uni", "cross-cross", "cross-uni", "plain")
    ),
    seeds=tuple(range(15)),
    minutes=1,
    paper="Iscen et al. RECO. 2023",
    text="An image and a name find each other better after a look at a memory of images with captions: best where"
    " neighbours are looked for in the same modality and fused with in the other one; names that nothing was learnt"
    " from, of 23 of CIFAR-10, clothes and pets in five splits, three seeds each.",
    published="CLIP, zero-shot, with a memory of pairs from the web: Stanford Cars +10.9, CUB-200-2011 +10.2, OVEN +7.3"
    " points; uni-modal search with cross-modal fusion is the best of the four.",
    statements=tuple(
        more(f"{other}", "unseen", "reco-uni-cross", f"reco-{arm}")
        for arm, other in {
            "plain": "better than the frozen towers",
            "uni-uni": "better than fusing with images",
            "cross-cross": "better than searching across",
            "cross-uni": "better than searching across and fusing with images",
        }.items()
    ),
    missing="CLIP, in whose place are a MobileNet that has seen ImageNet and multilingual-e5-small, brought together by"
    " linear maps, and a memory of millions: here 920 pairs.",
)
LEARNS = Statement("the decoder learns, five points", "top1", ("ger-ald",), margin=-0.05)
GER = Claim(
    name="ger",
    world="own",
    arms=tuple(
        Arm(f"ger-{arm}", {"arm": arm}, run="replications.naming:ger")
        for arm in ("ald", "atomic", "caption", "hierarchy", "knn", "dual")
    ),
    seeds=tuple(range(10)),  # five did not tell codes from captions
    minutes=1.5,
    paper="Caron et al. GER. 2024",
    text="Of 1,200 composed names, of which a fifth has no image to learn from, more are found by decoding codes of"
    " their rarest word pieces than random codes, the whole name, a path in a tree of names, the nearest image;"
    " and no fewer than by the nearest text. Every answer is a name, as the search allows no other. All see the same"
    " maps of the frozen network.",
    published="OVEN, six million entities of Wikipedia: such codes are ahead of captioning, dual encoders, visual"
    " matching and hierarchical classification.",
    statements=(
        more("better than atomic codes", "top1", "ger-ald", "ger-atomic", premise=LEARNS),
        more("better than captioning", "top1", "ger-ald", "ger-caption", premise=LEARNS),
        more("better than hierarchical classification", "top1", "ger-ald", "ger-hierarchy", premise=LEARNS),
        more("better than matching images", "top1", "ger-ald", "ger-knn", premise=LEARNS),
        more("no worse than the dual encoder", "top1", "ger-ald", "ger-dual", margin=0.01, premise=LEARNS),
        Statement("every answer is a name", "valid beyond all", ("ger-ald",), every_seed=True),
    ),
    missing="Entities of Wikipedia, their images, and a decoder that has learnt from captions before.",
)
CLAIMS = (RECO, GER)
