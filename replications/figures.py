"""Figures of claims: every seed of every arm, so that one sees what the verdict says."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from replications.judge import Judged, Results
from replications.plan import Claim

MORE, LESS, OTHERS = "#1f5fbf", "#c2571a", "#8a8f98"
IN_WORDS = {
    "linear": "linear accuracy, %",
    "knn": "kNN accuracy, %",
    "miou": "mean IoU of frozen features, %",
    "corrupted": "linear accuracy under corruptions, %",
    "class gap": "frequent classes ahead of rare ones, points",
    "attention": "Jaccard index of attention and objects, %",
    "ndcg": "nDCG@10, %",
    "recall": "recall@100, %",
    "top1": "accuracy, %",
    "pck": "keypoints right, %",
    **{f"shot{n}": f"accuracy with {n} labels a class, %" for n in (1, 5, 10)},
}
"""Shares that are drawn in percent; other scores are drawn as they are."""


def draw_claim(claim: Claim, found: Results, judged: Sequence[Judged], path: Path) -> bool:
    """A picture of a claim, once the seeds of one of its statements are there; whether there is one.

    Where arms are scored as a whole and by their parts, both are drawn, else the first statement's score.
    """
    done = [each.statement for each in judged if each.found and each.verdict[:1].isalpha()]
    done = [each for each in done if " - " not in each.score]
    if not done:
        return False
    if {"linear", "miou"} <= {each.score for each in done}:
        front(found, claim, path)
    else:
        verdict = next(each for each in judged if each.statement is done[0])
        strip(found, claim, verdict, path)
    return True


def front(found: Results, claim: Claim, path: Path) -> None:
    """Arms as points, linear accuracy across and mIoU upwards: seeds small, means large."""
    figure, axes = _sheet(6.4, 4.4)
    arms = {arm: [s for s in seeds.values() if {"linear", "miou"} <= set(s)] for arm, seeds in found.items()}
    for arm, seeds in arms.items():
        if not seeds:
            continue
        x, y = ([100 * scores[key] for scores in seeds] for key in ("linear", "miou"))
        colour = OTHERS if arm == "random" else LESS if "time" in arm or arm == "vicreg" else MORE
        axes.plot(x, y, ".", color=colour, alpha=0.35, markersize=6, markeredgewidth=0)
        axes.plot(statistics.fmean(x), statistics.fmean(y), "o", color=colour, markersize=8)
        left, below = statistics.fmean(x) > 80 or arm == "vicreg", -12 if "time" in arm else 4
        axes.annotate(
            arm,
            (statistics.fmean(x), statistics.fmean(y)),
            (-9 if left else 9, below),
            textcoords="offset points",
            ha="right" if left else "left",
            color=colour,
            fontsize=9,
        )
    axes.set_xlabel(IN_WORDS["linear"])
    axes.set_ylabel(IN_WORDS["miou"])
    axes.set_title(f"{claim.paper}: {claim.world}", fontsize=10, loc="left")
    axes.grid(color="#e9eae6")
    _save(figure, path)


def strip(found: Results, claim: Claim, judged: Judged, path: Path) -> None:
    """A line for each arm: its seeds as dots, its mean as a bar; above, the statement with its verdict."""
    statement, interval = judged.statement, judged.found
    assert interval is not None
    key, factor = statement.score, 100 if statement.score in IN_WORDS else 1
    arms = {arm: [factor * s[key] for s in seeds.values() if key in s] for arm, seeds in found.items()}
    arms = {arm: values for arm, values in arms.items() if values}
    figure, axes = _sheet(6.4, 1.2 + 0.36 * len(arms))
    for row, (arm, values) in enumerate(arms.items()):
        colour = MORE if arm in statement.more else LESS if arm in statement.less else OTHERS
        axes.plot(values, [row] * len(values), "o", color=colour, alpha=0.45, markersize=6, markeredgewidth=0)
        axes.plot([statistics.fmean(values)] * 2, [row - 0.3, row + 0.3], color=colour, linewidth=2)
    axes.set_yticks(range(len(arms)), [f"{arm} ({len(values)})" for arm, values in arms.items()], fontsize=9)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(IN_WORDS.get(key, key))
    margin = statement.margin * factor
    bounds = (factor * bound - margin for bound in (interval.mean, interval.low, interval.high))
    said = "{:+.3g} [{:+.3g}, {:+.3g}]".format(*bounds)
    title = f"{claim.paper}\n{statement.text}: {said}, {judged.verdict}"
    axes.set_title(title, fontsize=9, loc="left", x=0, wrap=True)
    axes.grid(axis="x", color="#e9eae6")
    _save(figure, path)


def ranking(rows: Sequence[tuple[str, list[float], bool]], xlabel: str, path: Path) -> None:
    """Arms below each other, the best first: seeds as dots, means as bars.

    Args:
        rows: name, scores over seeds, and whether it is the best or not told apart from it.
        xlabel: of the scores.
        path: the picture.
    """
    figure, axes = _sheet(6.4, 0.9 + 0.24 * len(rows))
    for row, (_, values, best) in enumerate(rows):
        colour = MORE if best else OTHERS
        x = [100 * value for value in values]
        axes.plot(x, [row] * len(x), "o", color=colour, alpha=0.45, markersize=4.5, markeredgewidth=0)
        axes.plot([statistics.fmean(x)] * 2, [row - 0.35, row + 0.35], color=colour, linewidth=2)
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows], fontsize=8)
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlabel(xlabel)
    axes.grid(axis="x", color="#e9eae6")
    _save(figure, path)


def robustness_curve(scores: dict[str, dict[str, float]], path: Path | str) -> None:
    """Draw the mean accuracy under 15 corruptions at each severity, 0 being clean images.

    Args:
        scores: name of an encoder -> its scores of the task `robustness`; three of them at most.
        path: the picture, .png or .svg.
    """
    colours = (MORE, LESS, "#14804a")
    figure, axes = _sheet(6.4, 3.8)
    ends = []
    for colour, (name, found) in zip(colours, scores.items(), strict=False):
        severities = sorted(int(key.removeprefix("severity_")) for key in found if key.startswith("severity_"))
        x, y = [0, *severities], [100 * found["clean"], *(100 * found[f"severity_{s}"] for s in severities)]
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.75, color=colour)
        ends.append((y[-1], x[-1], f"{name} (−{100 * found['relative_drop']:.0f}%)", colour))
    low, high = axes.get_ylim()
    height = low - (high - low)  # names are kept a line apart from below
    for y_end, x_end, text, colour in sorted(ends):
        height = max(y_end, height + 0.06 * (high - low))
        axes.annotate(text, (x_end, height), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=9)
    axes.margins(x=0.02)
    axes.set_xticks(range(1 + max(end[1] for end in ends)))
    axes.set_xlabel("severity of the corruption (0: clean images)")
    axes.set_ylabel("linear accuracy, % (mean of the corruptions)")
    axes.grid(axis="y", color="#e9eae6")
    _save(figure, path)


def _sheet(width: float, height: float) -> tuple[Any, Any]:
    """A figure of so many inches, and its axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)
    return figure, axes


def _save(figure: Any, path: Path | str) -> None:
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "glocal"}):  # the same scores, the same file
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
