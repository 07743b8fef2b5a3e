"""The report's first words: is the encoder any better than doing nothing, and is anything wrong with it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from glocal.report.records import RunRecord, Scores
from glocal.report.words import SHARES, main_metric, score, task_name

BASELINES = {"random": "random initialisation", "pixels": "raw pixels"}
SMALLEST = 0.01
"""A difference under one point is called none, however many test images there are."""


@dataclass(frozen=True)
class Verdict:
    """`sentence` answers the question, `remarks` are a sentence each, `good` is False when something needs attention."""

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
    troubles = list(diagnoses)
    mine = run.scores.get("encoder", {})
    judged = [task for task, metrics in mine.items() if main_metric(metrics)]
    if not judged:
        return Verdict(_unscored(run, dim), troubles, not troubles)
    parts, details, good = [], [], not troubles
    for arm, words in BASELINES.items():
        gains = [gain for task in judged if (gain := _gain(run, task, arm)) is not None]
        if gains:
            how, better = _compare(gains)
            parts.append(f"{how} {words}")
            good = good and better
    for task in judged:
        metric = main_metric(mine[task])
        assert metric is not None
        details.append(_detail(task, metric, run.scores))
    if not parts:
        return Verdict(
            "There are no baseline scores, so these cannot yet be called good or bad.", details + troubles, good
        )
    labels = (
        ""
        if any(main_metric(mine[t]) not in ("within_1_cell", "retrieval") for t in judged)
        else " in tasks without labels"
    )
    return Verdict(f"The encoder is {' and '.join(parts)}{labels}.", details + troubles, good)


def _gain(run: RunRecord, task: str, arm: str) -> int | None:
    """1, 0 or -1: better than the arm on a task, no clear difference, worse; None where the arm was not scored."""
    mine, theirs = run.scores["encoder"][task], run.scores.get(arm, {}).get(task, {})
    metric = main_metric(mine)
    if metric is None or metric not in theirs:
        return None
    a, b, n = mine[metric], theirs[metric], run.tested
    noise = 0.0
    if metric in ("top1", "accuracy", "retrieval") and n:  # each test image is right or wrong: two standard errors
        noise = 2 * math.sqrt((a * (1 - a) + b * (1 - b)) / n)
    return int(a - b > max(SMALLEST, noise)) - int(b - a > max(SMALLEST, noise))


def _compare(gains: list[int]) -> tuple[str, bool]:
    """In words, and whether it is good news."""
    better, worse, tasks = gains.count(1), gains.count(-1), len(gains)
    if better == tasks:
        return "better than", True
    if worse == tasks:
        return "worse than", False
    if not better and not worse:
        return "not clearly different from", False
    rest = f"worse on {worse}" if worse else "not clearly different on the rest"
    return (
        f"better on {better} of {tasks} tasks ({rest}) than" if better else f"worse on {worse} of {tasks} tasks than"
    ), (better > worse)


def _detail(task: str, metric: str, scores: dict[str, Scores]) -> str:
    value = scores["encoder"][task][metric]
    others = [
        f"{score(metric, other)} for {words} ({_points(metric, value - other)})"
        for arm, words in BASELINES.items()
        if (other := scores.get(arm, {}).get(task, {}).get(metric)) is not None
    ]
    against = f", against {' and '.join(others)}" if others else ""
    return f"{task_name(task)}: {score(metric, value)}{against}."


def _points(metric: str, gain: float) -> str:
    text = f"{100 * gain:+.1f} points" if metric in SHARES else f"{gain:+.2f}"
    return text.replace("-", "−")


def _unscored(run: RunRecord, dim: int | None) -> str:
    rank = _last(run, "rank_pooled")
    if rank is None:
        return "This run has not been evaluated, so nothing can be said yet about how good its features are."
    of = f" of {dim}" if dim else ""
    return (
        f"No scores say how good this encoder is. Its pooled feature uses an effective rank of {rank:.0f}{of} dimensions; "
        "judge what it has learnt by the neighbours and matches below."
    )


def _last(run: RunRecord, name: str) -> float | None:
    values = [
        line[name] for line in run.monitor if isinstance(line.get(name), int | float) and math.isfinite(line[name])
    ]
    return values[-1] if values else None
