"""Charts as inline SVG that follow the page's colours, and images as data URIs."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
from PIL import Image

from glocal.report.labels import short_number
from glocal.report.matches import PhotographMatches

Series = tuple[np.ndarray, np.ndarray]
"""x and y of one line, both (N,)."""

# Matplotlib draws with these stand-in colours; `_themed` turns each into the style sheet's variable.
_VARIABLES = ("ink", "soft", "rule", "grid", "run", "random", "pixels", "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7")
COLOURS = {name: f"#{k + 1:02x}fe{k + 1:02x}" for k, name in enumerate(_VARIABLES)}
ARM_COLOURS = {"encoder": "run", "random": "random", "pixels": "pixels"}
ARM_NAMES = {"encoder": "This run", "random": "Random initialisation", "pixels": "Raw pixels"}

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "glocal",
    "font.size": 12.5,
    "axes.edgecolor": COLOURS["rule"],
    "axes.labelcolor": COLOURS["soft"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": COLOURS["grid"],
    "grid.linewidth": 1,
    "text.color": COLOURS["ink"],
    "xtick.color": COLOURS["rule"],
    "xtick.labelcolor": COLOURS["soft"],
    "ytick.labelcolor": COLOURS["soft"],
    "ytick.left": False,
    "lines.linewidth": 1.75,
    "lines.solid_capstyle": "round",
    "lines.solid_joinstyle": "round",
}


def data_uri(image: Image.Image, *, quality: int = 78) -> str:
    """An image as a WebP data URI."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "WEBP", quality=quality, method=4)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()


def thin(x: Sequence[float], y: Sequence[float], *, most: int = 240) -> Series:
    """At most `most` points: means of equal stretches. Points whose y is not finite are dropped."""
    xs, ys = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    keep = np.isfinite(xs) & np.isfinite(ys)
    xs, ys = xs[keep], ys[keep]
    if len(xs) <= most:
        return xs, ys
    parts = np.array_split(np.arange(len(xs)), most)
    return np.array([xs[p].mean() for p in parts]), np.array([ys[p].mean() for p in parts])


def line_chart(
    lines: dict[str, tuple[str, Series]], *, title: str, x_label: str, log: bool = False, zero: bool = False
) -> str:
    """Lines over a shared x axis, as SVG.

    Args:
        lines: name -> (colour variable, series).
        title: read out by screen readers.
        x_label: under the axis.
        log: logarithmic y axis.
        zero: let the y axis start at zero.
    """
    with _styled():
        figure, axes = _axes(340, 210, left=46, right=12, top=10, bottom=44)
        for colour, (x, y) in lines.values():
            few = len(x) <= 12
            axes.plot(x, y, color=COLOURS[colour], marker="o" if few else None, markersize=3.5)
        axes.set_xlabel(x_label)
        if log:
            axes.set_yscale("log")
        else:
            axes.locator_params(axis="y", nbins=5)
            _plain(axes.yaxis)
            if zero:
                axes.set_ylim(bottom=0)
        axes.locator_params(axis="x", nbins=6)
        axes.margins(x=0.02)
        return _svg(figure, title)


def bar_chart(bars: list[tuple[str, float, str]], *, title: str) -> str:
    """Horizontal bars of fractions, the axis from 0 to 1, each with its value written at its end, as SVG.

    Args:
        bars: (colour variable, value, printed value).
        title: read out by screen readers.
    """
    bar = 20
    with _styled():
        figure, axes = _axes(230, bar * len(bars), left=0, right=50, top=0, bottom=0)
        axes.set_axis_off()
        axes.set_xlim(0, 1)
        axes.set_ylim(len(bars), 0)
        for k, (colour, value, text) in enumerate(bars):
            axes.barh(k + 0.5, 1, height=0.72, color=COLOURS["grid"], linewidth=0)
            axes.barh(k + 0.5, value, height=0.72, color=COLOURS[colour], linewidth=0)
            axes.annotate(text, (1, k + 0.5), (6, 0), textcoords="offset points", va="center", ha="left")
        return _svg(figure, title)


def match_drawing(matches: PhotographMatches, *, side: int = 200, most: int = 28) -> str:
    """Two crops side by side and the matches between them, as SVG: solid where right, dashed where wrong.

    At most `most` lines are drawn, evenly spread over the cells, so that they can be told apart.
    """
    gap, full = 14, matches.crops[0].width
    scale = side / full
    width = 2 * side + gap
    images = "".join(
        f'<image href="{data_uri(crop.resize((side, side), Image.Resampling.LANCZOS))}" x="{k * (side + gap)}" y="0" '
        f'width="{side}" height="{side}"/>'
        for k, crop in enumerate(matches.crops)
    )
    shown = np.unique(np.linspace(0, len(matches.hits) - 1, min(most, len(matches.hits))).round().astype(int))
    # Wrong ones first, right ones on top of them.
    shown = shown[np.argsort(matches.hits[shown], kind="stable")] if len(matches.hits) else shown
    drawn = []
    for m in shown:
        (x1, y1), (x2, y2) = matches.start[m] * scale, matches.end[m] * scale + (side + gap, 0)
        kind = "hit" if matches.hits[m] else "miss"
        drawn.append(
            f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'
            f'<circle class="{kind}" cx="{x1:.1f}" cy="{y1:.1f}" r="2.2"/>'
            f'<circle class="{kind}" cx="{x2:.1f}" cy="{y2:.1f}" r="2.2"/>'
        )
    label = f"{int(matches.hits.sum())} of {len(matches.hits)} matches right in two crops of {matches.key}"
    return (
        f'<svg viewBox="0 0 {width} {side}" role="img" aria-label="{escape(label, quote=True)}">'
        f"{images}{''.join(drawn)}</svg>"
    )


def _styled():
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _axes(width: float, height: float, *, left: float, right: float, top: float, bottom: float):
    """A figure of this many CSS pixels and its one plotting area, with margins in pixels."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72)
    figure.patch.set_alpha(0)
    box = (left / width, bottom / height, (width - left - right) / width, (height - top - bottom) / height)
    axes = figure.add_axes(box)
    axes.patch.set_alpha(0)
    return figure, axes


def _plain(axis) -> None:
    """Tick labels as 1.5k and 2M rather than with an offset or an exponent."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))


def _svg(figure, title: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return _themed(buffer.getvalue(), title)


def _themed(svg: str, title: str) -> str:
    """Matplotlib's document as an element of the page: its colours and fonts are the page's, its ids do not clash."""
    body = svg[svg.index("<svg") :]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<svg[^>]*viewBox=\"([^\"]*)\"[^>]*>", r'<svg viewBox="\1" role="img">', body, count=1, flags=re.S)
    body = body.replace('role="img">', f'role="img" aria-label="{escape(title, quote=True)}">', 1)
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', body))
    body = re.sub(r' id="([^"]+)"', lambda m: m.group(0) if m.group(1) in used else "", body)
    body = body.replace("xlink:href", "href")
    body = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", body)
    body = re.sub(r"font-family:[^;\"]*;? *", "", body)
    body = re.sub(r"\n\s*", "\n", re.sub(r"<!--.*?-->", "", body, flags=re.S))
    for name, stand_in in COLOURS.items():
        body = body.replace(stand_in, f"var(--{name})")
    return body.strip()
