"""Which method? What differences between runs on a few seeds and a finite test set allow to say."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any

from glocal.evaluation import Task, declared
from glocal.report.scores import score

Runs = list[dict[str, Any]]
"""A line's finished runs, one a seed: "scores", "cost", "steps", "seed"."""
Results = dict[str, Runs]


@dataclass(frozen=True)
class Column:
    """A score that lines are compared in: of which task, its name, and which value is the best where one is."""

    task: Task
    name: str
    score: str
    best: Callable[[Iterable[float]], float] | None

    @property
    def heading(self) -> str:
        """The task and what its score is."""
        return f"{self.task.title}: {self.task.in_words(self.score)}"

    def printed(self, value: float) -> str:
        """The score as it is printed."""
        return score(value, share=self.task.share_of(self.score) is not None)


@dataclass(frozen=True)
class Estimate:
    """The mean over seeds, each seed's score, and the 95% interval of the mean where there is one."""

    mean: float
    seeds: list[float]
    interval: tuple[float, float] | None


def columns_of(scores: Iterable[dict[str, Any]]) -> list[Column]:
    """The main score of every task in some encoders' scores; of a task without one, the first that it names."""
    found: dict[str, Column] = {}
    for name, returned in (item for each in scores for item in each.items() if item[0] != "meta"):
        task = declared(name)
        numbers = task.scores(returned)
        main = task.main or next((word for word in task.words if word in numbers), next(iter(numbers), None))
        if name not in found and main in numbers:
            best = None if task.main is None else max if task.higher_is_better else min
            found[name] = Column(task, name, main, best)
    return list(found.values())


def estimate(runs: Runs, column: Column) -> Estimate | None:
    """A line's score: chance is that of the seeds (t) and, of shares of test images, that of the images, together."""
    found = list(_by_seed(runs, column).values())
    if not found:
        return None
    mean = statistics.fmean(found)
    half = hypot(_half_width(found), 1.96 * sqrt(_variance(runs, column, mean)))
    return Estimate(mean, found, (mean - half, mean + half) if half else None)


def clearly_apart(a: Runs, b: Runs, column: Column) -> bool:
    """Whether two lines differ by more than chance (95%): paired by seed, on test images taken as drawn anew for each.

    With one seed in common it is never known.
    """
    ours, theirs = _by_seed(a, column), _by_seed(b, column)
    pairs = [(ours[seed], theirs[seed]) for seed in ours.keys() & theirs.keys()]
    if len(pairs) < 2:
        return False
    images = sum(_variance(runs, column, statistics.fmean(each.values())) for runs, each in ((a, ours), (b, theirs)))
    apart = [one - other for one, other in pairs]
    return abs(statistics.fmean(apart)) > hypot(_half_width(apart), 1.96 * sqrt(images))


def answer(results: Results, columns: Sequence[Column]) -> str:
    """One sentence that says which line to choose, or why none can be named."""
    judged = [column for column in columns if column.best]
    leaders = {column.heading: _leader(results, column) for column in judged}
    if len(results) < 2 or not judged:
        return "There is nothing to choose between." if len(results) < 2 else "No score says which is better."
    if min(map(len, results.values())) < 2:
        led = "; ".join(f"{name} leads in {heading}" for heading, name in leaders.items())
        return f"One seed cannot tell a difference from chance: run --seeds 3 or more. So far {led}."
    behind = {
        name: [c.heading for c in judged if clearly_apart(results[leaders[c.heading]], runs, c)]
        for name, runs in results.items()
    }
    level = [name for name, worse in behind.items() if not worse]
    if not level:
        led = "; ".join(f"{name} in {heading}" for heading, name in leaders.items())
        return f"It depends on what it is for, since none keeps up everywhere: {led}."
    scores = "the one score" if len(judged) == 1 else f"any of {len(judged)} scores"
    if len(level) == 1:
        return f"Choose {level[0]}: nothing is clearly better in {scores}, and all others are clearly worse in one."
    fastest = max(level, key=lambda name: _rate(results[name]))
    others = ", ".join(name for name in behind if name not in level)
    those = f"{', '.join(level[:-1])} and {level[-1]}{f' ({others} clearly behind)' if others else ''}"
    return f"Choose {fastest}, the fastest of those between which {scores} shows no clear difference: {those}."


def unbeaten(results: Results, baselines: dict[str, dict[str, Any]], columns: Sequence[Column]) -> str:
    """What not even the best line is clearly better than (95%), and in what; "" where there is no such baseline."""
    found: dict[str, list[str]] = {}
    for column in columns:
        best = column.best and estimate(results[_leader(results, column)], column)
        for name, scores in baselines.items():
            other = estimate([{"scores": scores, "seed": 0}], column)
            if best and other:
                more = best.mean - other.mean if column.best is max else other.mean - best.mean
                halves = [(high - low) / 2 for low, high in (each.interval or (0.0, 0.0) for each in (best, other))]
                if more <= hypot(*halves):
                    found.setdefault(name, []).append(column.heading)
    return " ".join(f"No method is clearly better than {name} in {', '.join(where)}." for name, where in found.items())


def _leader(results: Results, column: Column) -> str:
    assert column.best is not None
    means = {name: found.mean for name, runs in results.items() if (found := estimate(runs, column))}
    best = column.best(means.values())
    return next(name for name, mean in means.items() if mean == best)


def _by_seed(runs: Runs, column: Column) -> dict[int, float]:
    found = {run.get("seed", 0): run["scores"].get(column.name, {}).get(column.score) for run in runs}
    return {seed: value for seed, value in found.items() if value is not None}


def _variance(runs: Runs, column: Column, share: float) -> float:
    """Of a share of test images, by their number; of other scores it is not known: 0."""
    scores = runs[0]["scores"]
    tested = scores.get(column.name, {}).get("images") or scores.get("meta", {}).get("n_test")
    return share * (1 - share) / tested if tested and column.task.share_of(column.score) == "images" else 0.0


def _half_width(values: Sequence[float]) -> float:
    from scipy.stats import t

    if len(values) < 2:
        return 0.0
    return float(t.ppf(0.975, len(values) - 1)) * statistics.stdev(values) / sqrt(len(values))


def _rate(runs: Runs) -> float:
    return statistics.fmean(run["cost"]["images_per_second"] for run in runs)
