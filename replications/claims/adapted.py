"""Encoders that exist: pruned without labels, masked, and whether noise around an image stays normal."""

from __future__ import annotations

from replications.claims.arms import NET, method, more
from replications.plan import Arm, Claim, Statement

FIVE = tuple(range(5))
LABELS = "replications.variants:Supervised"
PRUNED = {
    "backbone": f"{NET}rn8_w16_s8", "image_size": 32, "batch_size": 128, "scale": (0.2, 1.0),
    "keep": 0.8**8, "prune_rounds": 4, "max_steps": 150, "label_steps": 450,
}  # fmt: skip


def pruned(name: str, method: str) -> Arm:
    return Arm(name, {**PRUNED, "method": method}, run="replications.adapted:pruned")


MATTERS = more("which weights are left matters", "linear", "mask-labels", "mask-random")
PRUNING = Claim(
    name="pruning",
    world="own",
    arms=(pruned("mask-ssl", "vicreg"), pruned("mask-labels", LABELS), pruned("mask-random", "random")),
    seeds=FIVE,
    minutes=3.5,
    paper="Caron et al. Pruning with self-supervision. 2020",
    text="Masks found without labels (here VICReg) leave a network that is worth as much, trained again on labels, as"
    " masks found with them, and more than random ones; and pruning preserves what frozen features are worth elsewhere."
    " CIFAR-10, .8^8 of the weights in four rounds; frozen features on clothing, all images in five folds. Random masks"
    " leave the same share of every layer, the others more of some layers than of others.",
    published="ResNet-50 on ImageNet, up to 90% left out: within 1 to 2 points of masks from labels.",
    statements=(
        more("no worse than masks from labels", "linear", "mask-ssl", "mask-labels", margin=0.02, premise=MATTERS),
        more("no better than masks from labels", "linear", "mask-labels", "mask-ssl", margin=0.02, premise=MATTERS),
        more("better than random masks", "linear", "mask-ssl", "mask-random"),
        Statement(
            "transfer is preserved",
            "clothing after - clothing before",
            ("mask-ssl",),
            margin=0.02,
            premise=Statement("something transfers", "clothing before - clothing drawn", ("mask-ssl",)),
        ),
    ),
    missing="Eight rounds, each as long as training from scratch; a network of ImageNet's size. Labels find masks that"
    " are judged by the same labels, on the same images; and the rounds without labels, of 150 steps, are short for a"
    " loss that learns more slowly.",
)
MASKED = {
    "backbone": f"{NET}rn8_w16_s8", "method": "swav", "prototypes": 500,
    "base_size": 32, "base_batch": 128, "base_scale": (0.2, 1.0), "base_steps": 1000,
    "image_size": 64, "batch_size": 64, "max_steps": 720, "experts": 5, "expert_steps": 120, "mask_lr": 200.0,
}  # fmt: skip


def masked(kind: str) -> Arm:
    return Arm(kind, {**MASKED, "kind": kind}, run="replications.adapted:masked")


MASKS = Claim(
    name="masks",
    world="own",
    arms=tuple(masked(kind) for kind in ("frozen", "trained", "masked")),
    seeds=tuple(range(8)),
    minutes=7,
    paper="Warmerdam, Caron, Asano. Self-masking networks. 2024",
    text="Masks learnt without labels (SwAV) on a network that was itself trained without labels serve better with a"
    " tenth of the labels than the network as it is, as well as training all its weights, at a thirtieth of the"
    " storage; a cascade of masks, whose features are twice as many, serves better than one. A thin ResNet, SwAV on"
    " CIFAR-10, then 15 epochs of clothing, which its weights are trained on as those of a new network; every labelled"
    " image tested once over five seeds. Five were planned, after which the rule asked for eight, and then for"
    " twelve: what masks may add here is less than the labels of a fold can tell. The masks' rate, four times the"
    " paper's, was the better of three (seed 100).",
    published="ResNet-50 of SwAV, mask against fine-tuning: CIFAR-10 96.2 and 95.8, CIFAR-100 79.8 and 82.1; self-"
    "supervised on CIFAR-100, cascade over one mask: 79.3 and 76.9; up to 79 times less to store.",
    statements=(
        more("better than the frozen network", "tenth", "masked", "frozen"),
        more("no worse than all weights trained", "tenth", "masked", "trained", margin=0.01,
             premise=more("training them helps", "tenth", "trained", "frozen")),
        Statement("a thirtieth to store", "thirtieth - storage", ("masked",), every_seed=True),
        Statement("a cascade is better than one mask", "cascade tenth - tenth", ("masked",)),
    ),
    missing="150 epochs, and a base that has seen ImageNet. A pilot with the released MobileNet x0.5 (seed 100): a"
    " hundred masked weights of 760,000 cost six points of nearest neighbours. Training the weights for as long helps"
    " four points, the bits leave out 6% of them: at the paper's rate they move fewer still, and at four times this one"
    " they were no better (seed 100). An expert of the cascade sees a fifth of 3,000 photographs, in 120 steps.",
)  # fmt: skip
NORMALITY = Claim(
    name="normality",
    world="cifar10",
    arms=(method("vicreg"),),
    seeds=(0, 1, 2),
    minutes=6,
    paper="Shwartz-Ziv, Balestriero, LeCun. What do we maximize. 2022",
    text="Around an image the features of a deterministic network under small normal noise (sigma .01 of normalised"
    " pixels) are normal: 90% of (image, random projection) pairs pass D'Agostino and Pearson's test at 5%, for each of"
    " three VICReg runs.",
    published="ResNet-18 on CIFAR-10: normality is not rejected for sigma up to some .1.",
    statements=(Statement("normal at .01", "normal beyond .9", ("vicreg",), every_seed=True),),
)
CLAIMS = (PRUNING, MASKS, NORMALITY)
