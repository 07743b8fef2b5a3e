"""Names and numbers as people read them."""

from __future__ import annotations

import math

from glocal.errors import UsageError
from glocal.report.records import RunRecord

TASKS = {
    "knn": "Nearest neighbours",
    "linear": "Linear probe",
    "segment": "Segmentation",
    "correspond": "Correspondence",
    "rank": "Rank and redundancy",
    "stability": "Stability",
    "retrieve": "Retrieval",
}
METRICS = {
    "top1": "accuracy",
    "top5": "top-5 accuracy",
    "balanced": "mean accuracy of the classes",
    "miou": "mean IoU",
    "pixel_accuracy": "pixel accuracy",
    "within_1_cell": "matches within one cell",
    "median_error": "median error, cells",
    "chance": "matches within one cell by chance",
    "map": "mean average precision",
    "rank_pooled": "effective rank, pooled",
    "rank_dense": "effective rank, dense",
    "redundancy": "mean correlation between dimensions",
    "spread": "spread (1 is isotropic)",
    "similarity_within": "similarity of places in one image",
    "similarity_between": "similarity of places in different images",
    "same": "similarity of two crops of one image",
    "other": "similarity of different images",
    "retrieval": "other crop is the nearest",
}
SHARES = {
    "top1",
    "top5",
    "accuracy",
    "balanced",
    "miou",
    "pixel_accuracy",
    "within_1_cell",
    "chance",
    "map",
    "retrieval",
}
"""Metrics that are fractions, shown in percent; larger is better, save for "chance"."""
MAIN = ("top1", "accuracy", "miou", "within_1_cell", "map", "retrieval")
"""The metric a task is judged by: the first of these that it has."""
HIGHER, LOWER = SHARES - {"chance"}, {"median_error"}
"""Metrics of which more, or less, is better. Of others, such as rank, neither is."""


def task_name(task: str) -> str:
    """A task in words."""
    return TASKS.get(task, task.replace("_", " ").capitalize())


def metric_name(metric: str) -> str:
    """A metric in words."""
    return METRICS.get(metric, metric.replace("_", " "))


def main_metric(metrics: dict[str, float]) -> str | None:
    """The metric a task is judged by, or None where none of its numbers says good or bad."""
    return next((name for name in MAIN if name in metrics), None)


def score(metric: str, value: float) -> str:
    """A score as it is printed: 62.1% or 84.3."""
    if metric in SHARES:
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def short_number(value: float) -> str:
    """A number in about five characters: 0.05, 1.5k, 2M, 3e−5."""
    if not math.isfinite(value):
        return ""
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e9):
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    else:
        limit, letter = (1e6, "M") if size >= 1e6 else (1e3, "k") if size >= 1e4 else (1.0, "")
        text = f"{value:.0f}" if 1000 <= size < 1e4 else f"{value / limit:.3g}{letter}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def method_words(run: RunRecord) -> tuple[str, str]:
    """(title, citation) of the run's method; its bare name and no citation when it is not registered here."""
    name = run.setting("method")
    if not isinstance(name, str):
        return "Run", ""
    from glocal.methods import method_class

    try:
        cls = method_class(name)
    except UsageError:
        return name, ""
    return getattr(cls, "title", name), getattr(cls, "paper", "")
