"""The charts of a run: what was logged while it trained, and the spectra of its features."""

from __future__ import annotations

from typing import Any

import numpy as np

from glocal.report.figures import Chart, Series, line_chart, thin
from glocal.report.records import RunRecord
from glocal.report.visuals import Spectrum


def training_charts(run: RunRecord) -> list[Chart]:
    """Loss, its terms, online kNN accuracy, rank, clusters, learning rate and speed; those that were logged."""
    length = epoch_length(run.monitor)
    terms = dict.fromkeys(name for line in run.training for name in line if name.startswith("loss/"))

    def chart(title: str, log: list[dict[str, Any]], names: dict[str, str], scale: float = 1, zero: bool = True) -> Any:
        lines = {}
        for k, (name, words) in enumerate(names.items()):
            found = [line for line in log if isinstance(line.get(name), int | float)]
            x, y = thin([line["step"] / (length or 1) for line in found], [line[name] * scale for line in found])
            if len(x):
                lines[words] = (f"s{k % 8}", (x, y))
        return line_chart(title, lines, x_label="epoch" if length else "step", zero=zero) if lines else None

    clusters = {"clusters/nmi": "NMI", "clusters/largest": "largest"}
    charts = [
        chart("Loss", run.training, {"loss": "total"}, zero=False),
        chart("Loss terms", run.training, {name: name.removeprefix("loss/") for name in terms}, zero=False),
        chart("kNN accuracy while training, %", run.monitor, {"knn_top1": "pooled"}, scale=100),
        chart("Effective rank", run.monitor, {"rank_pooled": "pooled", "rank_dense": "dense"}),
        chart("Clusters: NMI with the epoch before, share of the largest", run.monitor, clusters),
        chart("Learning rate", run.training, {"lr": "lr"}),
        chart("Images per second", run.training, {"images_per_second": "images/s"}),
    ]
    return [each for each in charts if each]


def epoch_length(monitor: list[dict[str, Any]]) -> float | None:
    """Steps per epoch, from monitor lines, which are written when an epoch ends; None when there is none to tell.

    A run may end within an epoch, whose line then counts too many steps for its finished epochs: hence the least.
    """
    lengths = [line["step"] / line["epoch"] for line in monitor if line.get("epoch") and line.get("step")]
    return min(lengths) if lengths else None


def spectrum_charts(spectra: dict[str, dict[str, Spectrum]], names: dict[str, str]) -> list[Chart]:
    """Singular values of pooled and dense features, a line for each arm whose features vary."""
    charts = []
    for kind, arms in spectra.items():
        lines = {names[arm]: (arm, _ranked(values)) for arm, values in arms.items() if values[0] > 0}
        if lines:
            charts.append(line_chart(f"{kind.capitalize()} features", lines, x_label="direction", log=True))
    return charts


def _ranked(values: Spectrum) -> Series:
    """At most 240 of the values, ever sparser, and which they are, from 1."""
    every = np.arange(1, len(values) + 1)
    keep = every - 1 if len(every) <= 240 else np.unique(np.geomspace(1, len(every), 240).round().astype(int)) - 1
    keep = keep[values[keep] > 0]
    return keep + 1.0, values[keep]
