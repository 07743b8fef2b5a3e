"""What needs large batches, and what a contrastive loss does to features: Barlow Twins, DCL, DirectCLR."""

from __future__ import annotations

from typing import Any

from replications.claims.arms import RANDOM, learns, method, more
from replications.plan import Arm, Claim, Statement
from replications.worlds import CIFAR10

FIVE = tuple(range(5))
IMAGES = CIFAR10.options["batch_size"] * CIFAR10.options["max_steps"]
"""Seen by every arm, whatever its batch."""
SMALL, LARGE = 32, 256


def at(name: str, batch: int, **options: Any) -> Arm:
    """A method at another batch; SGD where a rate for 256 images is given, else as glocal decides."""
    suffix = f"-{batch}"
    if "lr" in options:
        suffix += "-sgd"
        options |= {"optimizer": "sgd", "lr": options["lr"] * batch / 256, "weight_decay": 1e-4}
    if name == "barlow_twins":
        options["projector"] = (512,) * 3  # of one width, which 32 images can make nearly orthogonal
    return method(name, suffix, batch_size=batch, max_steps=IMAGES // batch, **options)


def gain_grows(text: str, ours: str, theirs: str, suffix: str = "") -> Statement:
    """That one method's gain over another is larger at the small batch than at the large one."""
    small, large = f"-{SMALL}{suffix}", f"-{LARGE}{suffix}"
    return Statement(
        text,
        "linear",
        more=(ours + small, theirs + large),
        less=(ours + large, theirs + small),
        premise=more(f"{theirs} suffers from the small batch", "linear", theirs + large, theirs + small),
    )


BARLOW = Claim(
    name="barlow-batch",
    world="cifar10",
    arms=tuple(at(name, batch) for batch in (SMALL, LARGE) for name in ("simclr", "barlow_twins")),
    seeds=FIVE,
    minutes=5,
    paper="Zbontar et al. Barlow Twins. ICML 2021",
    text="Its accuracy falls off more slowly with smaller batches than SimCLR's. (That a linear Barlow Twins finds the"
    " subspace of CCA is proved by a test: tests/diagnostics/test_spectral.py.)",
    published="ResNet-50 on ImageNet, figure 2: batches of 256 to 4096.",
    statements=(gain_grows("its gain over SimCLR grows as the batch shrinks", "barlow_twins", "simclr"),),
    missing="Batches of 64 and 128 between would take 20 cells of 5 minutes.",
)
SGD = {"lr": 0.12, "temperature": 0.1}
DCL = Claim(
    name="dcl-batch",
    world="cifar10",
    arms=(
        RANDOM["random"],
        *(at(name, batch, **SGD) for batch in (SMALL, LARGE) for name in ("simclr", "dcl")),
    ),
    seeds=FIVE,
    minutes=5,
    paper="Yeh et al. Decoupled contrastive learning. ECCV 2022",
    text="Without the positive in InfoNCE's denominator a small batch learns nearly as well as a large one: the gain"
    " over InfoNCE grows as the batch shrinks. By SGD, since LARS divides the gradient's size out again.",
    published="ResNet-50 on ImageNet, 200 epochs at batch 256, linear: SimCLR 61.8, DCL 66.9.",
    statements=(
        gain_grows("its gain over SimCLR grows as the batch shrinks", "dcl", "simclr", "-sgd"),
        more(
            "more accurate at the small batch",
            "linear",
            f"dcl-{SMALL}-sgd",
            f"simclr-{SMALL}-sgd",
            premise=learns(f"dcl-{SMALL}-sgd"),
        ),
    ),
    missing="LARS, and batches of 16 and 64, would take 60 cells of 5 minutes.",
)
NONE = Arm("no-projector", {"method": "directclr", "fraction": 1.0}, ("rank",))
LINEAR = Arm("linear-projector", {"method": "replications.variants:Projected", "temperature": 0.2}, ("rank",))
DIRECTCLR = Claim(
    name="directclr",
    world="cifar10",
    arms=(RANDOM["random"], method("directclr"), NONE, LINEAR),
    seeds=FIVE,
    minutes=6,
    paper="Jing et al. Understanding dimensional collapse. ICLR 2022",
    text="A contrastive loss on all channels makes features span few dimensions; DirectCLR, the same loss on some of"
    " them, keeps the others alive, and is better than a linear projector.",
    published="ResNet-50 on ImageNet, 100 epochs, linear: no projector 51.5, linear projector 61.1, DirectCLR 62.7.",
    statements=(
        more("features of higher rank than without a projector", "rank", "directclr", "no-projector", least=1.0),
        more("features of higher rank than with a linear one", "rank", "directclr", "linear-projector", least=1.0),
        more("more accurate than without", "linear", "directclr", "no-projector", premise=learns("directclr")),
        more("more accurate than a linear one", "linear", "directclr", "linear-projector", premise=learns("directclr")),
    ),
)
CLAIMS = (BARLOW, DCL, DIRECTCLR)
