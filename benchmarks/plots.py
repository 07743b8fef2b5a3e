"""Figures of the performance page, from what was measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams |= {"svg.hashsalt": "glocal", "axes.spines.top": False, "axes.spines.right": False}
from matplotlib import pyplot as plt  # noqa: E402
from matplotlib.ticker import NullLocator  # noqa: E402

OURS, THEIRS, GREY = "#1b6ca8", "#d1495b", "#b8b8b8"


def save(figure: plt.Figure, path: Path) -> None:
    """Write such that the same figures give the same file."""
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def figure_losses(measured: dict[str, Any], path: Path) -> None:
    """Time and memory of each case, lightly's over Glocal's."""
    cases = measured["cases"]
    names = [
        f"B {case['batch']}, {case['cells']}×{case['cells']}, {case['whole']}" if case["cells"] else
        f"VICReg B {case['batch']}, {case['whole']}"
        for case in cases
    ]  # fmt: skip
    figure, axes = plt.subplots(1, 2, figsize=(9, 0.5 + 0.4 * len(cases)), sharey=True)
    places = range(len(cases))
    for axis, key, title in zip(axes, ("times_faster", "times_less_memory"), ("faster", "less memory"), strict=True):
        axis.barh(places, [case[key] for case in cases], color=OURS)
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set(xscale="log", xlabel=f"times {title} than lightly", yticks=places, yticklabels=names)
    axes[0].plot(
        [case["target"] or float("nan") for case in cases], places, "|", color=THEIRS, markersize=16, label="target"
    )
    axes[0].legend(frameon=False)
    axes[0].invert_yaxis()
    save(figure, path)


def figure_pretrain(measured: dict[str, Any], path: Path) -> None:
    """Efficiency of every case."""
    cases = measured["cases"]
    names = [name for name in cases[0]["images_per_second"] if name not in ("resident", "bare")]
    figure, axis = plt.subplots(figsize=(9, 3.5))
    for k, name in enumerate(names):
        shares = [case["efficiency"][name] for case in cases]  # as in the table
        places = [i + 0.8 * (k + 0.5) / len(names) - 0.4 for i in range(len(cases))]
        colour, pale = THEIRS if name.startswith("lightly") else OURS, "cached" in name or "tuned" in name
        axis.bar(places, shares, 0.75 / len(names), color=colour, alpha=0.6 if pale else 1, label=name)
    axis.axhline(1, color="black", linewidth=0.8)
    backbones = [case["backbone"].removesuffix(f"_{case['image_size']}") for case in cases]
    labels = [f"{case['method']}\n{name}\n{case['image_size']} px" for name, case in zip(backbones, cases, strict=True)]
    axis.set(ylabel="share of backbone + heads + optimiser", xticks=range(len(cases)))
    axis.set_xticklabels(labels, fontsize=8)
    axis.legend(frameon=False, ncols=len(names), loc="lower center", bbox_to_anchor=(0.5, 1))
    save(figure, path)


def figure_profile(measured: dict[str, Any], path: Path) -> None:
    """One bar per case, the parts of a step in it."""
    cases = measured["cases"]
    figure, axis = plt.subplots(figsize=(9, 1 + 0.9 * len(cases)))
    names = sorted(
        {name for case in cases for name in case["core_milliseconds"]},
        key=lambda name: -max(case["core_milliseconds"].get(name, 0) for case in cases),
    )
    left = [0.0] * len(cases)
    for k, name in enumerate(names):
        shares = [case["core_milliseconds"].get(name, 0.0) / sum(case["core_milliseconds"].values()) for case in cases]
        axis.barh(range(len(cases)), shares, left=left, color=plt.get_cmap("tab20")(k % 20), label=name)
        left = [a + b for a, b in zip(left, shares, strict=True)]
    axis.set(xlabel="share of a step", yticks=range(len(cases)), yticklabels=[case["method"] for case in cases])
    axis.legend(frameon=False, ncols=4, fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1))
    save(figure, path)


def figure_quality(measured: dict[str, Any], path: Path) -> None:
    """Linear accuracy over processor time, every counted run."""
    figure, axis = plt.subplots(figsize=(7, 3.5))
    for name, curves in measured["curves"].items():
        for k, curve in enumerate(curves):
            at = [point["seconds"] / 60 for point in curve]
            colour = OURS if name.startswith("glocal") else THEIRS
            axis.plot(at, [point["top1"] for point in curve], color=colour, label=None if k else name)
    axis.axhline(measured["mark"], color=GREY, linewidth=0.8)
    axis.set(xlabel="processor minutes", ylabel="linear top-1")
    axis.legend(frameon=False)
    save(figure, path)


def figure_growth(measured: dict[str, Any], path: Path) -> None:
    """Time and memory of the loss as batch, maps and views grow."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3))
    for axis, name in zip(axes, ("batch", "cells", "views"), strict=True):
        rows = measured[f"loss_by_{name}"]
        at = [row[name] ** 2 if name == "cells" else row[name] for row in rows]
        axis.plot(at, [1000 * row["seconds"]["median"] for row in rows], "o-", color=OURS, label="ms")
        axis.plot(at, [row["peak_bytes"] / 2**20 for row in rows], "s--", color=GREY, label="peak MiB")
        axis.set(xlabel={"batch": "batch", "cells": "cells of a map", "views": "views"}[name])
        axis.set(xscale="log", yscale="log") if name != "views" else axis.set_ylim(bottom=0)
        marks = [f"{row['cells']}×{row['cells']}" if name == "cells" else str(row[name]) for row in rows]
        axis.set_xticks(at, marks)
        axis.xaxis.set_minor_locator(NullLocator())
    axes[0].legend(frameon=False)
    save(figure, path)
