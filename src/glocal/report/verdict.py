"""The report's first words: is the encoder any better than doing nothing, and is anything wrong with it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glocal.report.labels import main_metric, task_name
from glocal.report.records import RunRecord

BASELINES = {"random": "random initialisation", "pixels": "raw pixels"}
SMALLEST = 0.01
"""A difference under one point is called none, however many test images there are."""
COUNTED = ("top1", "accuracy", "retrieval")
"""Shares of test images, whose chance deviation is known: differences under two standard errors are called none."""


@dataclass(frozen=True)
class Gain:
    """By how much the encoder's score exceeds a baseline's, and the least that counts. Fractions of one."""

    difference: float
    margin: float


@dataclass(frozen=True)
class Verdict:
    """`sentence` answers the question, `remarks` are a sentence each, `good` is False when all is not well."""

    sentence: str
    remarks: list[str] = field(default_factory=list)
    good: bool = True


def judge(run: RunRecord, dim: int | None = None, diagnoses: Sequence[str] = ()) -> Verdict:
    """The verdict on a run.

    Args:
        run: the run's files.
        dim: width of the pooled feature, to say how much of it is used.
        diagnoses: what is wrong, a sentence each.
    """
    remarks = list(diagnoses)
    comparisons = [found for arm, words in BASELINES.items() if (found := _compare(run, arm, words)) is not None]
    if comparisons:
        sentence = f"The encoder is {', and '.join(text for text, _ in comparisons)}."
        return Verdict(sentence, remarks, not remarks and all(good for _, good in comparisons))
    if any(main_metric(metrics) for metrics in run.scores.get("encoder", {}).values()):
        return Verdict(
            "The scores below stand alone: without those of an untrained network, they cannot be called good or bad.",
            remarks,
            not remarks,
        )
    return Verdict(_unscored(run, dim), remarks, not remarks)


def _compare(run: RunRecord, arm: str, words: str) -> tuple[str, bool] | None:
    """How the encoder stands against one baseline, and whether that is good news; None when they share no score."""
    gains = {task: gain for task in run.scores.get("encoder", {}) if (gain := _gain(run, task, arm)) is not None}
    if not gains:
        return None
    better, worse, same = (
        [task for task, gain in gains.items() if verdict(gain)] for verdict in (_is_better, _is_worse, _is_same)
    )
    if len(better) == len(gains):
        return f"better than {words} ({_by(gains)})", True
    if len(worse) == len(gains):
        return f"worse than {words} ({_by(gains)})", False
    if len(same) == len(gains):
        return f"not clearly different from {words} ({_by(gains)})", False
    rest = [
        f"{what} {_tasks(tasks)}" for what, tasks in (("worse in", worse), ("not clearly different in", same)) if tasks
    ]
    start = f"better than {words} in {_tasks(better)} but " if better else f"against {words} "
    return start + " and ".join(rest), len(better) > len(worse)


def _gain(run: RunRecord, task: str, arm: str) -> Gain | None:
    mine, theirs = run.scores["encoder"][task], run.scores.get(arm, {}).get(task, {})
    metric = main_metric(mine)
    if metric is None or metric not in theirs:
        return None
    a, b = mine[metric], theirs[metric]
    noise = 0.0
    if metric in COUNTED and run.tested:
        noise = 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / run.tested)
    return Gain(a - b, max(SMALLEST, noise))


def _by(gains: dict[str, Gain]) -> str:
    """by 16.1 points in nearest neighbours; by 12.0 to 22.9 points in 4 tasks."""
    low, high = (pick(100 * gain.difference for gain in gains.values()) for pick in (min, max))
    if low < 0 and high <= 0:
        low, high = -high, -low
    points = f"{low:.1f}" if f"{low:.1f}" == f"{high:.1f}" else f"{low:.1f} to {high:.1f}"
    return f"by {points} points in {_tasks(list(gains)) if len(gains) == 1 else f'{len(gains)} tasks'}".replace(
        "-", "−"
    )


def _tasks(tasks: list[str]) -> str:
    names = [task_name(task).lower() for task in tasks]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _is_better(gain: Gain) -> bool:
    return gain.difference > gain.margin


def _is_worse(gain: Gain) -> bool:
    return gain.difference < -gain.margin


def _is_same(gain: Gain) -> bool:
    return abs(gain.difference) <= gain.margin


def _unscored(run: RunRecord, dim: int | None) -> str:
    rank = _last(run, "rank_pooled")
    if rank is None:
        return "This run has not been evaluated, so nothing can be said yet about how good its features are."
    of = f" of {dim}" if dim else ""
    return (
        f"No scores say how good this encoder is. Its pooled feature has an effective rank of {rank:.0f}{of}; "
        "judge what it has learnt by the neighbours and matches below."
    )


def _last(run: RunRecord, name: str) -> float | None:
    values = [
        line[name] for line in run.monitor if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    ]
    return values[-1] if values else None
