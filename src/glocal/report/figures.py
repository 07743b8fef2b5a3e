"""Where lines, ticks and images of a run's figures stand; the templates draw them in the page's colours."""

import base64
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from glocal.evaluation import declared
from glocal.report.matches import PhotographMatches
from glocal.report.records import RunRecord
from glocal.report.visuals import Spectrum

Series = tuple[np.ndarray, np.ndarray]
"""x and y of one line, both (N,)."""

LEFT, RIGHT, TOP, BOTTOM = 46, 328, 10, 166
"""Edges of a chart's plotting area, in pixels of a drawing of 340×210."""


@dataclass(frozen=True)
class Chart:
    """A line chart: by name the colour variable of each line and its points [x, y], and (place, text) of each tick."""

    title: str
    x_label: str
    lines: dict[str, tuple[str, list[list[float]]]]
    x_ticks: list[tuple[float, str]]
    y_ticks: list[tuple[float, str]]


def line_chart(
    title: str, lines: dict[str, tuple[str, Series]], *, x_label: str, log: bool = False, zero: bool = False
) -> Chart:
    """Lines, of a point at least each, over a shared x axis that starts at zero.

    The y axis may be logarithmic (`log`), or start at `zero`, or below.
    """
    from matplotlib.ticker import LogLocator, MaxNLocator

    every_x, every_y = (np.concatenate([series[k] for _, series in lines.values()]) for k in (0, 1))
    low, high = float(min(every_y.min(), 0) if zero else every_y.min()), float(every_y.max())
    if low == high:  # a level line stands in the middle
        low, high = low - (abs(low) or 1) / 2, high + (abs(high) or 1) / 2
    scale: Any = np.log10 if log else np.asarray
    end, bottom, top = float(every_x.max()), scale(low), scale(high)

    def x(values: Any) -> Any:
        return LEFT + (RIGHT - LEFT) * np.asarray(values) / (end or 1)

    def y(values: Any) -> Any:
        return BOTTOM - (BOTTOM - TOP) * (scale(values) - bottom) / (top - bottom)

    def ticks(locator: Any, start: float, stop: float, place: Any) -> list[tuple[float, str]]:
        inside = [float(tick) for tick in locator.tick_values(start, stop) if start <= tick <= stop]
        return [(round(float(place(tick)), 1), short_number(tick, digits=6)) for tick in inside]

    linear = MaxNLocator(5, steps=[1, 2, 2.5, 5, 10])
    return Chart(
        title,
        x_label,
        {name: (colour, np.stack([x(xs), y(ys)], 1).round(1).tolist()) for name, (colour, (xs, ys)) in lines.items()},
        ticks(linear, 0.0, end, x),
        ticks(LogLocator(numticks=6) if log else linear, low, high, y),
    )


def thin(x: Sequence[float], y: Sequence[float], *, most: int = 240) -> Series:
    """At most `most` points: means of equal stretches. Points whose y is not finite are dropped."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[keep], ys[keep]
    if len(xs) <= most:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), most)
    return np.array([xs[p].mean() for p in parts]), np.array([ys[p].mean() for p in parts])


def data_uri(image: Image.Image, side: int | None = None, *, quality: int = 78) -> str:
    """An image as a WebP data URI, shrunk to a square of `side` pixels."""
    buffer = io.BytesIO()
    image = image if side is None else image.resize((side, side), Image.Resampling.LANCZOS)
    image.convert("RGB").save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def match_lines(matches: PhotographMatches, *, side: int, gap: int, most: int = 15) -> list[tuple[str, list[float]]]:
    """The lines to draw between two crops of `side` pixels, `gap` apart: ("hit" or "miss", [x1, y1, x2, y2]).

    At most `most`, evenly spread over the cells, so that they can be told apart; right ones last, on top.
    """
    count, scale = len(matches.hits), side / matches.crops[0].width
    shown = np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int))
    ends = np.concatenate([matches.start * scale, matches.end * scale + (side + gap, 0)], 1)
    return [
        ("hit" if matches.hits[m] else "miss", ends[m].round(1).tolist())
        for m in shown[np.argsort(matches.hits[shown], kind="stable")]
    ]


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

    checked = dict.fromkeys(name for line in run.monitor for name in line if name.startswith("validation/"))
    clusters = {"clusters/nmi": "NMI", "clusters/largest": "largest"}
    charts = [
        chart("Loss", run.training, {"loss": "total"}, zero=False),
        chart("Loss terms", run.training, {name: name.removeprefix("loss/") for name in terms}, zero=False),
        chart("kNN accuracy while training, %", run.monitor, {"knn_top1": "pooled"}, scale=100),
        chart("On images held out, %", run.monitor, {x: x.removeprefix("validation/") for x in checked}, scale=100),
        chart("Effective rank", run.monitor, {"rank_pooled": "pooled", "rank_dense": "dense"}),
        chart("Clusters: NMI with the epoch before, share of the largest", run.monitor, clusters),
        chart("Learning rate", run.training, {"lr": "lr"}),
        chart("Images per second", run.training, {"images_per_second": "images/s"}),
    ]
    return [each for each in charts if each]


def sparsity_chart(run: RunRecord) -> Chart | None:
    """What each round of pruning left of the scores that all rounds have; None of a run without rounds."""
    if not run.rounds:
        return None
    ends = [(1.0, run.scores.get("start", {})), (run.config["keep"], run.scores.get("encoder", {}))]
    points = sorted([*run.rounds, *ends], key=lambda point: point[0])
    lines = {}
    for k, name in enumerate(sorted(set.intersection(*(set(scores) for _, scores in run.rounds)))):
        task = declared(name)
        main = str(task.main)
        found = [(100 * kept, scores[name][main]) for kept, scores in points if main in scores.get(name, {})]
        if found:
            lines[f"{task.title}: {task.in_words(main)}"] = (f"s{k % 8}", thin(*zip(*found, strict=True)))
    return line_chart("Score against sparsity", lines, x_label="weights kept, %", zero=True) if lines else None


def epoch_length(monitor: list[dict[str, Any]]) -> float | None:
    """Steps per epoch, from monitor lines, which are written when an epoch ends; None when there is none to tell.

    A run may end within an epoch, whose line then counts too many steps for its finished epochs: hence the least.
    """
    lengths = (line["step"] / line["epoch"] for line in monitor if line.get("epoch") and line.get("step"))
    return min(lengths, default=None)


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


def short_number(value: float, *, digits: int = 3) -> str:
    """A number in about five characters: 0.05, 1.5k, 2M, 3e−5."""
    if not math.isfinite(value):
        return ""
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e9):
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    else:
        limit, letter = (1e6, "M") if size >= 1e6 else (1e3, "k") if size >= 1e4 else (1.0, "")
        text = f"{value:.0f}" if 1000 <= size < 1e4 else f"{value / limit:.{digits}g}{letter}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
