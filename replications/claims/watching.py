"""Time: slow features (JEPA), phases from weak labels, frames of videos with few labels."""

from __future__ import annotations

import math

from replications.claims.arms import more
from replications.plan import Arm, Claim, Statement

FOUR, TWENTY = tuple(range(4)), tuple(range(20))
STEPS = {"max_steps": 280, "batch_size": 64}
WEIGHTS = {"changing": {}, "fixed": {"invariance_weight": 21.4, "variance_weight": 930.0}}
"""As the authors tuned them for a noise that is fixed; for one that changes those of the preset."""


def dots(name: str, noise: str, **options) -> Arm:
    return Arm(f"{name}-{noise}", {"noise": noise, **options}, run="replications.watching:dots")


def trained(objective: str, noise: str) -> Arm:
    weights = WEIGHTS[noise] if objective == "vicreg" else {}
    return dots("jepa" if objective == "vicreg" else objective, noise, objective=objective, **STEPS, **weights)


def finds(objective: str, noise: str) -> Statement:
    return more(f"{objective} finds the dot", "place", f"{objective}-{noise}", f"random-{noise}", least=0.1)


def forgets(objective: str) -> Statement:
    """As far off as before it was trained, at least."""
    arms = "random-fixed", f"{objective}-fixed"
    return more(f"{objective} forgets the dot", "place", *arms, least=0.1)


def checked(arm: str, premise: Statement, *, fires: bool = True) -> Statement:
    """That the diagnosis fires, or not, on each seed, where it should."""
    text = f"the check {'names' if fires else 'is silent on'} {arm}"
    return Statement(text, "fires" if fires else "silent", (arm,), premise=premise, every_seed=True)


JEPA = Claim(
    name="jepa",
    world="own",
    arms=(
        *(trained(objective, noise) for noise in WEIGHTS for objective in ("vicreg", "reconstruction")),
        trained("simclr", "fixed"),
        *(dots("random", noise) for noise in WEIGHTS),
    ),
    seeds=FOUR,
    minutes=5,
    paper="Sobal et al. JEPA focuses on slow features. 2022",
    text="Where noise changes in each frame JEPA finds the dot as well as reconstruction; where it stays throughout a"
    " clip JEPA encodes the noise and forgets the dot. 1,000 clips of 17 frames, 280 steps of 64. Fixed noise was tried"
    " at three levels (seed 100; untrained network 7.8 px): at half the authors' JEPA finds the dot (2.2 px;"
    " reconstruction 2.4), at three quarters it is 6.8 off, at their level, which is kept, 10.6; reconstruction 5.1.",
    published="10,000 clips, 100 epochs: JEPA on par or better with changing noise, no better than chance with fixed.",
    statements=(
        more("on par where noise changes", "place", "jepa-changing", "reconstruction-changing", least=0.0, margin=0.5,
             premise=finds("reconstruction", "changing")),
        more("three times as far off where it is fixed", "log px", "jepa-fixed", "reconstruction-fixed", least=0.1,
             margin=-math.log(3), premise=finds("reconstruction", "fixed")),
        checked("jepa-fixed", forgets("jepa")),
        checked("simclr-fixed", forgets("simclr")),
        checked("reconstruction-fixed", finds("reconstruction", "fixed"), fires=False),
        checked("jepa-changing", finds("jepa", "changing"), fires=False),
        checked("reconstruction-changing", finds("reconstruction", "changing"), fires=False),
    ),
    missing="The authors' length, and coefficients tuned anew for each noise; their RSSM: reconstruction is by a plain"
    " recurrent decoder. The structured noises, which the world has.",
)  # fmt: skip


def salads(arm: str) -> Arm:
    return Arm(f"phases-{arm}", {"arm": arm}, run="replications.watching:salads")


PHASES = Claim(
    name="phases",
    world="own",
    arms=tuple(salads(arm) for arm in ("nearest", "walk", "split", "alone", "few")),
    seeds=TWENTY,
    minutes=0.05,
    paper="Hirsch et al. Random walks for surgical phases. 2023",
    text="From one marked frame of each segment a random walk over frames finds the others' phases better than the"
    " nearest mark does; with two labelled videos, better than the classifier alone. 50Salads, features of the eval"
    " level, a mark drawn in each segment; β and neighbours are chosen on two videos, judged are eight.",
    published="Cholec80 and MultiBypass140: close to full labels from timestamps, and from few labelled videos.",
    statements=(
        more("better than the nearest mark", "accuracy", "phases-walk", "phases-nearest"),
        more("better than the best split by scores", "accuracy", "phases-walk", "phases-split"),
        more("better than the classifier alone", "accuracy", "phases-few", "phases-alone"),
    ),
    missing="The surgical videos, which are not to be had; their features are learnt, ours are given scores.",
)


def frames(data: str, start: str, steps: int = 200) -> Arm:
    return Arm(
        f"{data}-{start}", {"data": data, "start": start, "max_steps": steps}, run="replications.watching:frames"
    )


def worth(arm: str) -> tuple[Statement, Statement]:
    """Half of the labels with MSN against all without, where that costs more than the margin; and against half."""
    said = arm.replace("-", ", ")
    dear = Statement("half the labels cost two points", "start - start half", (arm,), margin=-0.02)
    return (
        Statement(f"{said}: half is worth all", "after half - start", (arm,), margin=0.02, premise=dear),
        Statement(f"{said}: more with half", "after half - start half", (arm,)),
    )


PAIRS = [(data, start) for data in ("kvasir", "camvid") for start in ("random", "released")]
ENDOSCOPY = Claim(
    name="endoscopy",
    world="own",
    arms=(*(frames(*pair) for pair in PAIRS), frames("camvid-frames", "released", steps=0)),
    seeds=FOUR,  # a sequence each
    minutes=4,
    paper="Hirsch et al. MSN for endoscopic video analysis. 2023",
    text="After MSN on the unlabelled frames, half of the labels are worth as much as all of them on the same start"
    " without. Frozen segmentation of Kvasir's polyps and of CamVid by sequence, MobileNet x0.25; a split by frames"
    " instead of sequences flatters.",
    published="Cholec80, ViT-S: the same accuracy with half of the annotated data.",
    statements=(
        *(statement for pair in PAIRS for statement in worth("-".join(pair))),
        more("a split by frames flatters", "start", "camvid-frames-released", "camvid-released"),
    ),
    missing="Surgical videos, 32 GPUs; seven phases in place of masks.",
)
CLAIMS = (JEPA, PHASES, ENDOSCOPY)
