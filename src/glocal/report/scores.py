"""Scores as the page shows them: a row for each, beside those of the baselines."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glocal.evaluation import Task, declared
from glocal.evaluation.groups import LEAST, listed
from glocal.report.records import RunRecord


@dataclass(frozen=True)
class Cell:
    """A score as printed, its 95% interval if known, whether it is the best of its row."""

    value: float | None
    text: str = "–"
    interval: tuple[float, float] | None = None
    best: bool = False


Rows = dict[str, dict[str, Cell]]
"""A score in words -> the encoder's and the baselines'."""


@dataclass(frozen=True)
class TaskTable:
    """A task's scores, a row for each.

    Attributes:
        tested: number of test images that it looked at, if known.
        main: the row that the task is judged by; empty where there is none.
        folded: heading -> scores that the task gives for each of many things, such as classes.
        groups: heading -> a score in each group of images, and how far these are apart.
    """

    task: Task
    tested: int | None
    rows: Rows
    main: dict[str, Cell]
    folded: dict[str, Rows]
    groups: dict[str, Rows]


def tables(run: RunRecord) -> list[TaskTable]:
    """A table for each task that the encoder has scores of."""
    made = []
    for name, mine in run.scores.get("encoder", {}).items():
        task, returned = declared(name), {arm: scores.get(name, {}) for arm, scores in run.scores.items()}
        tested = mine.get("images") or run.meta.get("n_test")
        each = {arm: task.scores(scores) for arm, scores in returned.items()}
        rows = {}
        for key in each["encoder"]:
            known = {arm: scores.get(f"{key}_interval") for arm, scores in returned.items()}
            rows[task.in_words(key)] = _cells(task, key, key, each, tested, known)
        main = next(iter(rows.values())) if task.main in each["encoder"] else {}
        folded = {}
        for key in (key for key in task.words if isinstance(mine.get(key), Mapping)):
            things = {arm: scores.get(key) or {} for arm, scores in returned.items()}
            folded[task.words[key]] = {thing: _cells(task, key, thing, things, None) for thing in mine[key]}
        if rows:
            made.append(TaskTable(task, tested, rows, main, folded, _by_group(task, returned)))
    return made


def _by_group(task: Task, returned: Mapping[str, Any]) -> dict[str, Rows]:
    """Of each kind of groups (`glocal.evaluation.groups.by_group`) a row for each group, the worst, gap and ratio."""
    made: dict[str, Rows] = {}
    for which in ("groups", "harmful"):
        for kind, mine in returned["encoder"].get(which, {}).items():
            each = {arm: scores.get(which, {}).get(kind, {}) for arm, scores in returned.items()}
            share = which == "harmful" or task.share_of(mine["score"]) is not None
            rows: Rows = {}
            shown, others = listed(mine["groups"])
            for name, group in shown.items():
                few = "" if "interval" in group else ", too few for a verdict"
                found = {arm: there.get("groups", {}).get(name, {}) for arm, there in each.items()}
                rows[f"{name} ({group['images']:,} images{few})"] = _cells_of(found, "score", "interval", share)
            if others:
                rows[f"{others:,} groups of fewer than {LEAST} images"] = dict.fromkeys(each, Cell(None))
            if "gap" in mine:
                known = {arm: there for arm, there in each.items() if "gap" in there}
                more = {arm: "yes" if there["gap"] > there["chance"] else "no" for arm, there in known.items()}
                rows["worst group"] = {arm: Cell(None, there.get("worst", "–")) for arm, there in each.items()}
                rows["gap"] = _cells_of(each, "gap", "gap_interval", share)
                rows["gap that random groups exceed in 5% of draws"] = _cells_of(each, "chance", "", share)
                rows["gap is more than chance gives"] = {arm: Cell(None, more.get(arm, "–")) for arm in each}
                rows["ratio of the lower to the higher"] = _cells_of(each, "ratio", "ratio_interval", True)
            elif rows:
                rows[f"no two groups of {LEAST} images: nothing is compared"] = dict.fromkeys(each, Cell(None))
            what = "images with a label of --harmful" if which == "harmful" else task.in_words(mine["score"])
            made |= {f"{what} by {kind}": rows} if rows else {}
    return made


def _cells_of(each: Mapping[str, Any], key: str, interval: str, share: bool) -> dict[str, Cell]:
    """Of each arm a number of its group scores, if it has it."""
    return {
        arm: Cell(found[key], score(found[key], share=share), found.get(interval) if share else None)
        if key in found
        else Cell(None)
        for arm, found in each.items()
    }


def _cells(
    task: Task, score_name: str, key: str, each: dict[str, Any], tested: int | None, known: Mapping[str, Any] = {}
) -> dict[str, Cell]:
    """A row's cells; intervals are `known`, or those of shares of images."""
    values = {arm: scores.get(key) for arm, scores in each.items()}
    there = {value for value in values.values() if value is not None}
    best = (max if task.higher_is_better else min)(there) if len(there) > 1 and score_name == task.main else None
    of, cells = task.share_of(score_name), dict.fromkeys(values, Cell(None))
    for arm, value in values.items():
        if value is not None:
            interval = known.get(arm) or (wilson(value, tested) if of == "images" and tested else None)
            cells[arm] = Cell(value, score(value, share=of is not None), interval, value == best)
    return cells


def score(value: float, *, share: bool) -> str:
    """A score as it is printed: 62.1% or 84.3."""
    if share:
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def wilson(share: float, count: int) -> tuple[float, float]:
    """The 95% interval of a share of `count` images (Wilson 1927): it stays within 0 and 1."""
    z = 1.96
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + (z / (2 * count)) ** 2)
    return middle - half, middle + half
