"""docs/choose.md: which method for what, from the stored results of all claims."""

from __future__ import annotations

import statistics
import textwrap
from dataclasses import dataclass
from pathlib import Path

from replications.claims import CLAIMS
from replications.claims.learns import METHODS
from replications.figures import IN_WORDS, ranking
from replications.judge import Results, results, spread
from replications.rule import LEVEL, interval


@dataclass(frozen=True)
class Question:
    """What somebody wants of an encoder, and what answers it.

    Attributes:
        title: in a few words.
        world: where it was tried.
        score: that answers it.
        arms: that were tried.
        figure: whether a picture is drawn, where there are many.
    """

    title: str
    world: str
    score: str
    arms: tuple[str, ...]
    figure: bool = False


QUESTIONS = (
    Question("Whole images, with a classifier on top", "cifar10", "linear", METHODS, figure=True),
    Question("Whole images, by their nearest neighbours", "cifar10", "knn", METHODS, figure=True),
    Question("Five labels a class", "cifar10", "shot5", ("vicreg", "paws-5", "msn", "msn-whole")),
    Question(
        "Parts, in a drawn world",
        "parts",
        "miou",
        ("vicreg", "vicregl-0.9", "vicregl-0.75", "vicregl-0.5", "dino-vit", "loca-vit"),
    ),
    Question("Parts, in photographs", "real", "miou", ("vicreg", "vicregl-0.75")),
    Question("Batches of 16", "cifar10", "linear", ("simclr-16", "barlow_twins-16")),
    Question("Corrupted images", "cifar10", "corrupted", ("byol", "co-byol")),
    Question(
        "Images that nobody chose",
        "cifar10",
        "linear",
        ("vicreg-mix", "simclr-mix", "deepercluster-mix", "deepcluster-mix"),
    ),
)
HEAD = """Every number here is of small runs from nothing: minutes of one processor core, networks of 80,000 to a few \
hundred thousand weights, 5,000 to 50,000 images. What holds at the size of ImageNet is in the papers; with a released \
encoder at hand [continue](continue.md) that one. In bold: the best mean over seeds, and whatever a paired t-test at \
95% (not adjusted for how many there are) does not tell from it. What was claimed and what came of it: \
[replications](replications.md). What each method is, and what it needs: [methods](methods.md)."""


def of_world(world: str) -> dict[str, dict[int, dict[str, float]]]:
    """Scores by arm and seed of all claims that were tried in a world."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for claim in CLAIMS:
        if claim.world == world:
            for arm, seeds in results(claim).items():
                found.setdefault(arm, {}).update(seeds)
    return found


def ranked(question: Question, found: Results) -> list[tuple[str, list[float], bool]]:
    """The arms with two seeds at least, the best first: name, scores, whether it is not told apart from the best."""
    scores = {
        arm: {seed: kept[question.score] for seed, kept in found.get(arm, {}).items() if question.score in kept}
        for arm in question.arms
    }
    scores = {arm: seeds for arm, seeds in scores.items() if len(seeds) > 1}
    order = sorted(scores, key=lambda arm: -statistics.fmean(scores[arm].values()))
    rows = []
    for arm in order:
        both = sorted(set(scores[arm]) & set(scores[order[0]]))
        apart = arm != order[0] and len(both) > 1
        apart = apart and interval([scores[order[0]][seed] - scores[arm][seed] for seed in both]).p < LEVEL
        rows.append((arm, [scores[arm][seed] for seed in sorted(scores[arm])], not apart))
    return rows


def choose_page(docs: Path) -> str:
    """The page; figures are drawn beside it."""
    worlds = {question.world: of_world(question.world) for question in QUESTIONS}
    parts = ["# Choose a method", textwrap.fill(HEAD, 120, break_long_words=False, break_on_hyphens=False)]
    for question in QUESTIONS:
        rows, words = ranked(question, worlds[question.world]), IN_WORDS[question.score]
        parts.append(f"## {question.title}")
        if not rows:
            parts.append("Not run yet.")
            continue
        named = [f"**{arm}** {spread(values)}" if best else f"{arm} {spread(values)}" for arm, values, best in rows]
        lacking = [arm for arm in question.arms if arm not in {arm for arm, *_ in rows}]
        if question.figure:
            path = docs / "figures" / f"choose-{question.score}.svg"
            ranking(rows, words, path)
            parts.append(f"![The methods by their {words.partition(',')[0]}](figures/{path.name})")
        parts.append(
            f"{words[0].upper()}{words.partition(',')[0][1:]} in the world *{question.world}*: {', '.join(named)}."
        )
        if lacking:
            parts.append(f"To come: {', '.join(lacking)}.")
    return "\n\n".join(parts)
