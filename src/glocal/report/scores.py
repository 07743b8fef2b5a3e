"""Scores as the page shows them: a row for each, beside those of the baselines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from glocal.evaluation import Task, declared
from glocal.report.labels import score
from glocal.report.records import RunRecord


@dataclass(frozen=True)
class Cell:
    """One arm's score: as printed, its 95% interval where it is a share of test images, whether it is the best."""

    value: float | None
    text: str
    interval: tuple[float, float] | None = None
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A score in words, and each arm's."""

    words: str
    cells: dict[str, Cell]


@dataclass
class TaskTable:
    """A task's scores.

    Attributes:
        title: the task in words.
        rows: a row for each score.
        judged: whether the task is judged by the first of them.
        bars: whether the first is a fraction, that can be drawn as a bar.
        folded: heading -> rows of scores that the task gives for each of many things, such as classes.
    """

    title: str
    rows: list[Row]
    judged: bool
    bars: bool
    folded: dict[str, list[Row]] = field(default_factory=dict)


def tables(run: RunRecord) -> list[TaskTable]:
    """A table for each task that the encoder has scores of."""
    found = []
    for name, mine in run.scores["encoder"].items():
        task, arms = declared(name), {arm: scores.get(name, {}) for arm, scores in run.scores.items()}
        if not (metrics := list(task.scores(mine))):
            continue
        judged, bars = metrics[0] == task.main, task.share_of(metrics[0]) is not None
        each = {arm: task.scores(scores) for arm, scores in arms.items()}
        rows = [_row(task, metric, task.in_words(metric), each, run.tested(name)) for metric in metrics]
        table = TaskTable(task.title, rows, judged, judged and bars)
        for key in task.words:
            if isinstance(mine.get(key), Mapping):
                each = {arm: scores.get(key) or {} for arm, scores in arms.items()}
                table.folded[task.words[key]] = [_row(task, key, thing, each, None, thing) for thing in mine[key]]
        found.append(table)
    return found


def _row(task: Task, metric: str, words: str, each: dict[str, Any], tested: int | None, key: str | None = None) -> Row:
    values = {arm: scores.get(key or metric) for arm, scores in each.items()}
    there = [value for value in values.values() if value is not None]
    best = (max if task.higher_is_better else min)(there) if len(set(there)) > 1 else None
    of = task.share_of(metric)

    def cell(value: float | None) -> Cell:
        if value is None:
            return Cell(None, "–")
        interval = wilson(value, tested) if of == "images" and tested else None
        return Cell(value, score(value, share=of is not None), interval, metric == task.main and value == best)

    return Row(words, {arm: cell(value) for arm, value in values.items()})


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` images (Wilson 1927): it stays within 0 and 1."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return middle - half, middle + half
