"""The report's first words: is the encoder any better than what it started from, and is anything wrong with it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glocal.evaluation import declared
from glocal.report.labels import score
from glocal.report.records import RunRecord

SMALLEST = 0.01
"""A difference under one point (of other numbers: one percent) is called none, however many test images there are."""


@dataclass(frozen=True)
class Gain:
    """By how much the encoder is better than a baseline in a task's main score, and the least that counts."""

    better_by: float
    margin: float
    text: str

    @property
    def mark(self) -> str:
        """✓ better, ✗ worse, ≈ not clearly different."""
        return "≈" if abs(self.better_by) <= self.margin else "✓" if self.better_by > 0 else "✗"


@dataclass(frozen=True)
class Verdict:
    """The page's answer.

    Attributes:
        sentence: in words.
        remarks: what is wrong, a sentence each.
        good: False when all is not well.
        gains: a task in words, and by baseline the gain; None where the baseline has no such score.
    """

    sentence: str
    remarks: list[str] = field(default_factory=list)
    good: bool = True
    gains: list[tuple[str, dict[str, Gain | None]]] = field(default_factory=list)


def judge(run: RunRecord, dim: int | None = None, diagnoses: Sequence[str] = (), *, pictures: bool = False) -> Verdict:
    """The verdict on a run.

    Args:
        run: the run's files.
        dim: width of the pooled feature, to say how much of it is used.
        diagnoses: what is wrong, a sentence each.
        pictures: whether the page shows neighbours and matches.
    """
    remarks = list(diagnoses)
    tasks = {name: declared(name) for name in run.scores.get("encoder", {})}
    judged = [name for name, task in tasks.items() if task.main in task.scores(run.scores["encoder"][name])]
    gains = {name: {arm: _gain(run, name, arm) for arm in run.scores if arm != "encoder"} for name in judged}
    words = {"start": run.start, "pixels": "raw pixels"}
    said, good = [], True
    for arm in words:
        marks = [gain.mark for each in gains.values() if (gain := each.get(arm))]
        if marks:
            said.append(f"than {words[arm]} in {_count(marks.count('✓'), len(marks))}")
            good &= marks.count("✓") > marks.count("✗")
    if said:
        titled = [(tasks[name].title, each) for name, each in gains.items()]
        return Verdict(f"The encoder is better {' and '.join(said)}.", remarks, good and not remarks, titled)
    if judged:
        sentence = "The scores stand alone: without those of a baseline, they cannot be called good or bad."
    else:
        sentence = _unscored(run, dim, pictures)
    return Verdict(sentence, remarks, not remarks)


def _gain(run: RunRecord, name: str, arm: str) -> Gain | None:
    task = declared(name)
    assert task.main is not None
    a, b = (task.scores(run.scores[which].get(name, {})).get(task.main) for which in ("encoder", arm))
    if a is None or b is None:
        return None
    share, noise = task.share_of(task.main), 0.0
    if share == "images" and (tested := run.tested(name)):
        noise = 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / tested)
    more = a - b
    text = f"{100 * more:+.1f}" if share else f"{'+' * (more >= 0)}{score(more, share=False)}"
    margin = SMALLEST if share else SMALLEST * max(abs(a), abs(b))
    return Gain(more if task.higher_is_better else -more, max(margin, noise), text.replace("-", "−"))


def _count(some: int, of: int) -> str:
    if some == of:
        return f"all {of} tasks" if of > 1 else "the one task that judges it"
    return f"{some} of {of} tasks" if some else "no task"


def _unscored(run: RunRecord, dim: int | None, pictures: bool) -> str:
    ranks = [line["rank_pooled"] for line in run.monitor if isinstance(line.get("rank_pooled"), int | float)]
    if not (ranks := [rank for rank in ranks if math.isfinite(rank)]):
        return "This run has not been evaluated, so nothing can be said yet about how good its features are."
    of = f" of {dim}" if dim else ""
    shown = "; judge what it has learnt by its neighbours and matches" if pictures else ""
    rank = f"Its pooled feature has an effective rank of {ranks[-1]:.0f}{of}{shown}."
    return f"No scores say how good this encoder is. {rank}"
