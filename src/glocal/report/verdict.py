"""The report's first words: is the encoder any better than what it started from, and is anything wrong with it?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glocal.evaluation import declared
from glocal.report.records import BASELINES, RunRecord
from glocal.report.scores import TaskTable, score, wilson

Paired = tuple[float, tuple[float, float]]
"""A difference on the same images, and its 95% interval."""
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
    paired = {declared(name).title: found for name, found in run.meta.get("gains", {}).items()}
    gains = {
        title: {arm: gain for arm in BASELINES if (gain := _gain(table, arm, paired.get(title)))}
        for title, table in judged.items()
    }
    said, good = [], not diagnoses
    for arm, words in zip(BASELINES, (run.start, "raw pixels"), strict=True):
        marks = [each[arm].mark for each in gains.values() if arm in each]
        if marks:
            said.append(f"than {words} in {_count(marks.count('✓'), len(marks))}")
            good &= marks.count("✓") > marks.count("✗")
    if said:
        sentence = f"The encoder is better {' and '.join(said)}."
        if paired and "start" in run.scores:  # of which more is known than in how many tasks
            others = [words for words in said if not words.startswith(f"than {run.start} in")]
            beside = f" It is better {others[0]}." if others else ""
            sentence = _continued(run, judged, gains, paired) + beside
        return Verdict(sentence, [*diagnoses], good, gains)
    if (run.encoder.get("extra") or {}).get("method") == "finetune" and tables:
        sentence = _fine_tuned(tables[0])
    elif judged:
        sentence = "The scores stand alone: without those of a baseline, they cannot be called good or bad."
    else:
        sentence = _unscored(run, dim, pictures)
    return Verdict(sentence, [*diagnoses], good)


def _continued(
    run: RunRecord, judged: dict[str, TaskTable], gains: dict[str, dict[str, Gain]], paired: dict[str, Paired]
) -> str:
    """Whether training on these photographs was worth it, for weights that were good for something before.

    Where there are labels or masks, by the tasks that need them; else nothing is claimed but what training asks for.
    """
    whose = f"Your {run.trained:,} photographs" if run.trained else "Your photographs"
    untrained = (run.encoder.get("extra") or {}).get("steps") == 0
    if untrained and run.config.get("by") != "prune":
        return f"{whose} did not improve this encoder: it is handed over as it was."
    known = [title for title in judged if title in paired]
    named = [title for title in known if judged[title].task.needs] or known
    said: dict[str, list[str]] = {"✓": [], "≈": [], "✗": []}
    for title in named:
        (_, (low, high)), gain, table = paired[title], gains[title]["start"], judged[title]
        share = table.task.share_of(table.task.main or "")
        half = f"{50 * (high - low):.1f} points" if share else score((high - low) / 2, share=False)
        said[gain.mark].append(f"{gain.text} ± {half} in {title.lower()}")
    better, same, worse = ("; ".join(found) for found in said.values())
    sentence = f"{whose} improved this encoder by {better}" if better else f"{whose} did not improve this encoder"
    if untrained:
        sentence = f"{whose} did not improve the pruned weights, which are handed over untrained; beside {run.start}, "
        sentence += f"better: {better}" if better else "no better"
    rest = "; ".join([f"worse: {worse}"] * bool(worse) + [f"no difference: {same}"] * bool(same))
    sentence += f" ({rest})." if rest else "."
    if any(judged[title].task.needs for title in named):
        return sentence
    return f"{sentence} What else it is good for, images without labels do not say."


def _fine_tuned(table: TaskTable) -> str:
    """How right a head is on images that were held out."""
    words, cells = next(iter(table.rows.items()))
    cell, tested = cells["encoder"], table.tested or 0
    sentence = f"{table.task.title}, {words}: {cell.text}"
    if cell.value is not None and words == "top1" and tested:
        low, high = wilson(cell.value, tested)
        sentence = f"{100 * cell.value:.1f}% of images right (95%: {100 * low:.0f} to {100 * high:.0f}%)"
    return f"{sentence}, on {tested:,} that were held out."


def _gain(table: TaskTable, arm: str, paired: Paired | None) -> Gain | None:
    a, b = (table.main[which].value if which in table.main else None for which in ("encoder", arm))
    if a is None or b is None:
        return None
    share, more = table.task.share_of(table.task.main or ""), a - b
    margin = SMALLEST if share else SMALLEST * max(abs(a), abs(b))
    if share == "images" and table.tested:  # two standard errors
        margin = max(margin, 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / table.tested))
    better = more if table.task.higher_is_better else -more
    if arm == "start" and paired:  # the same images: its interval says whether there is a difference
        margin = abs(more) if paired[1][0] <= 0 <= paired[1][1] else 0.0
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
