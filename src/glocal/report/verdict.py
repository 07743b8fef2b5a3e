"""The report's first words: is the encoder any better than what it started from, and is anything wrong with it?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glocal.report.records import BASELINES, RunRecord
from glocal.report.scores import TaskTable, score

SMALLEST = 0.01
"""A difference under one point (of other numbers: one percent) is called none, however many test images there are."""


@dataclass(frozen=True)
class Gain:
    """A main score against a baseline's: ✓ better, ✗ worse or ≈ neither, and the difference as printed."""

    mark: str
    text: str


@dataclass(frozen=True)
class Verdict:
    """The page's answer, what is wrong (a sentence each), whether all is well, and by task and baseline the gains."""

    sentence: str
    remarks: list[str]
    good: bool
    gains: dict[str, dict[str, Gain]] = field(default_factory=dict)


def judge(
    run: RunRecord,
    tables: list[TaskTable],
    *,
    dim: int | None = None,
    diagnoses: Sequence[str] = (),
    pictures: bool = False,
) -> Verdict:
    """The verdict on a run.

    Args:
        run: the run's files.
        tables: its scores.
        dim: width of the pooled feature, to say how much of it is used.
        diagnoses: what is wrong, one each.
        pictures: whether the page shows neighbours and matches.
    """
    judged = {table.task.title: table for table in tables if table.main}
    gains = {title: {arm: gain for arm in BASELINES if (gain := _gain(table, arm))} for title, table in judged.items()}
    said, good = [], not diagnoses
    for arm, words in zip(BASELINES, (run.start, "raw pixels"), strict=True):
        marks = [each[arm].mark for each in gains.values() if arm in each]
        if marks:
            said.append(f"than {words} in {_count(marks.count('✓'), len(marks))}")
            good &= marks.count("✓") > marks.count("✗")
    if said:
        return Verdict(f"The encoder is better {' and '.join(said)}.", [*diagnoses], good, gains)
    if judged:
        sentence = "The scores stand alone: without those of a baseline, they cannot be called good or bad."
    else:
        sentence = _unscored(run, dim, pictures)
    return Verdict(sentence, [*diagnoses], good)


def _gain(table: TaskTable, arm: str) -> Gain | None:
    a, b = (table.main[which].value if which in table.main else None for which in ("encoder", arm))
    if a is None or b is None:
        return None
    share, more = table.task.share_of(table.task.main or ""), a - b
    margin = SMALLEST if share else SMALLEST * max(abs(a), abs(b))
    if share == "images" and table.tested:  # two standard errors
        margin = max(margin, 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / table.tested))
    better = more if table.task.higher_is_better else -more
    text = f"{100 * more:+.1f}" if share else f"{'+' * (more >= 0)}{score(more, share=False)}"
    return Gain("≈" if abs(better) <= margin else "✓" if better > 0 else "✗", text.replace("-", "−"))


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
