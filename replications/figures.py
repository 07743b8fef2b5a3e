"""Figures of the pages: the same bytes again from the same numbers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path


def lines(path: Path, means: Mapping[str, Mapping[str, float]], *, x: str, y: str) -> None:
    """One line for each name, through its means in their order, as an SVG.

    Args:
        path: to write.
        means: name of the line -> label on the x-axis -> height.
        x: of the axis.
        y: of the axis.
    """
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    with plt.rc_context({"svg.hashsalt": "glocal", "svg.fonttype": "none"}):
        figure, axes = plt.subplots(figsize=(5, 3.2), layout="constrained")
        for name, points in means.items():
            axes.plot(list(points), list(points.values()), marker="o", label=name)
        axes.set(xlabel=x, ylabel=y, ylim=(0, None))
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)
