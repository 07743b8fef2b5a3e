"""The robustness curve: accuracy against the severity of corruptions, one line per encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

COLOURS = ("#1f5fbf", "#c2571a", "#14804a", "#8a4fb0", "#a8861a", "#b03a6b", "#3b8f9e", "#63666b")


def robustness_curve(scores: Mapping[str, Mapping[str, Any]], path: Path | str) -> None:
    """Draw the mean accuracy under 15 corruptions at each severity, 0 being clean images.

    Args:
        scores: name of an encoder -> its scores of the task `robustness`.
        path: the picture, .png or .svg.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 3.8), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    ends = []
    for k, (name, found) in enumerate(scores.items()):
        severities = sorted(int(key.removeprefix("severity_")) for key in found if key.startswith("severity_"))
        x, y = [0, *severities], [100 * found["clean"], *(100 * found[f"severity_{s}"] for s in severities)]
        axes.plot(x, y, marker="o", markersize=4, linewidth=1.75, color=COLOURS[k % len(COLOURS)])
        ends.append((y[-1], x[-1], f"{name} (−{100 * found['relative_drop']:.0f}%)", COLOURS[k % len(COLOURS)]))
    low, high = axes.get_ylim()
    height = low - (high - low)  # names are kept a line apart from below
    for y_end, x_end, text, colour in sorted(ends):
        height = max(y_end, height + 0.06 * (high - low))
        axes.annotate(text, (x_end, height), (8, 0), textcoords="offset points", va="center", color=colour, fontsize=9)
    axes.margins(x=0.02)
    axes.set_xticks(range(1 + max(end[1] for end in ends)))
    axes.set_xlabel("severity of the corruption (0: clean images)")
    axes.set_ylabel("linear accuracy, % (mean of the corruptions)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e9eae6")
    axes.set_axisbelow(True)
    with rc_context({"svg.hashsalt": "glocal"}):  # the same scores, the same file
        figure.savefig(path, metadata={"Date": None} if str(path).endswith(".svg") else None)
