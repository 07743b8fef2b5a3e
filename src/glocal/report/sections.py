"""The parts of the page that come from numbers: what was run, scores, curves, spectra."""

from __future__ import annotations

from html import escape
from typing import Any

import numpy as np

from glocal.report.collect import ReportData
from glocal.report.figures import ARM_COLOURS, ARM_NAMES, Series, bar_chart, line_chart, thin
from glocal.report.labels import (
    HIGHER,
    LOWER,
    SHARES,
    duration,
    main_metric,
    method_words,
    metric_name,
    score,
    short_number,
    task_name,
)
from glocal.report.records import ARMS, RunRecord
from glocal.report.visuals import Spectrum

SETTINGS = {
    "preset": "preset {}",
    "epochs": "{} epochs",
    "max_steps": "at most {} steps",
    "batch_size": "batches of {}",
    "image_size": "crops of {} px",
    "optimizer": "{}",
    "lr": "learning rate {}",
    "weight_decay": "weight decay {}",
    "alpha": "alpha {}",
    "precision": "precision {}",
    "seed": "seed {}",
}
"""The settings that are named; all of them are in config.yaml, which is shown too."""


def section(name: str, title: str, body: str) -> str:
    """One section of the page."""
    return f'<section id="{name}"><h2>{escape(title)}</h2>\n{body}\n</section>\n'


def missing(report: ReportData, part: str) -> str:
    """Why a part is not there."""
    note = report.notes.get(part) or report.notes.get("pictures") or "There is nothing to show here."
    return f'<p class="missing">{escape(note)}</p>'


def what_was_run(report: ReportData) -> str:
    """Method, encoder, data, settings, time, versions; the whole configuration and the skipped files to unfold."""
    run = report.run
    title, paper = method_words(run)
    settings = [
        words.format(_value(run.config[name])) for name, words in SETTINGS.items() if run.config.get(name) is not None
    ]
    facts = {
        "Method": title if not paper else f"{title}. {paper}.",
        "Backbone": _backbone(report),
        "Data": _data(report),
        "Settings": ", ".join(settings),
        "Training": _training(run),
        "Versions": run.environment.get("versions", ""),
        "Hardware": run.environment.get("hardware", ""),
    }
    rows = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in facts.items() if value)
    return section(
        "run", "What was run", f'<dl class="facts">{rows}</dl>{_skipped(run)}{_unfold("config.yaml", run.config_text)}'
    )


def scores(report: ReportData) -> str:
    """The table and bars of evaluation.json, one column per arm."""
    run = report.run
    mine = run.scores.get("encoder")
    if not mine:
        note = "This run has no scores yet: glocal evaluate measures it, with or without labels."
        return section("scores", "Scores", f'<p class="missing">{note}</p>')
    arms = [arm for arm in ARMS if run.scores.get(arm)]
    caption = _tested(run) + (
        "Random initialisation is the same network untrained; raw pixels use no network at all. What training has "
        "added is the distance from the larger of the two. The best of each row is bold."
        if len(arms) > 1
        else "There are no baselines to compare with."
    )
    head = "".join(f"<th>{ARM_NAMES[arm]}</th>" for arm in arms)
    body = "".join(_task_rows(task, metrics, run, arms) for task, metrics in mine.items())
    head = f'<thead><tr><th><span class="hidden">Metric</span></th>{head}</tr></thead>'
    table = f'<div class="scroll"><table>{head}{body}</table></div>'
    return section("scores", "Scores", f'<p class="caption">{caption}</p>{_score_bars(run, arms)}{table}')


def curves(report: ReportData) -> str:
    """Loss, its terms, learning rate, speed, online kNN accuracy, rank and clusters over the run."""
    run = report.run
    length = epoch_length(run.monitor)
    unit = "epoch" if length else "step"
    terms = list(dict.fromkeys(name for line in run.training for name in line if name.startswith("loss/")))
    charts = [
        _curve("Loss", run.training, {"loss": "total"}, length),
        _curve("Loss terms", run.training, {name: name.removeprefix("loss/") for name in terms}, length),
        _curve("kNN accuracy while training, %", run.monitor, {"knn_top1": "pooled"}, length, scale=100),
        _curve("Effective rank", run.monitor, {"rank_pooled": "pooled", "rank_dense": "dense"}, length, zero=True),
        _curve(
            "Clusters: NMI with the epoch before, share of the largest",
            run.monitor,
            {"clusters/nmi": "NMI", "clusters/largest": "largest"},
            length,
            zero=True,
        ),
        _curve("Learning rate", run.training, {"lr": "lr"}, length, zero=True),
        _curve("Images per second", run.training, {"images_per_second": "images/s"}, length, zero=True),
    ]
    drawn = "".join(chart for chart in charts if chart)
    if not drawn:
        return section(
            "curves", "Training", '<p class="missing">metrics.jsonl is missing or holds nothing to draw.</p>'
        )
    caption = (
        f"Per {unit}. Healthy training: the loss falls and flattens; rank rises or holds (towards 1 it is a collapse). "
        "Accuracy, on training images only, that still rises at the end means that longer training would pay."
    )
    return section("curves", "Training", f'<p class="caption">{caption}</p><div class="charts">{drawn}</div>')


def spectra(report: ReportData) -> str:
    """Singular values of pooled and dense features."""
    if not report.spectra:
        return section("spectrum", "Spectrum", missing(report, "pictures"))
    caption = (
        f"Singular values of the centred features of {report.gallery} photographs over the largest, logarithmic. "
        "A slow fall means that many directions are in use; a cliff means that the directions beyond it hold nothing."
    )
    charts = []
    for kind, arms in report.spectra.items():
        lines = {ARM_NAMES[arm]: (ARM_COLOURS[arm], _ranked(values)) for arm, values in arms.items()}
        charts.append(_chart(f"{kind.capitalize()} features", lines, x_label="direction", log=True))
    return section(
        "spectrum", "Spectrum", f'<p class="caption">{caption}</p><div class="charts">{"".join(charts)}</div>'
    )


def epoch_length(monitor: list[dict[str, Any]]) -> float | None:
    """Steps per epoch, from monitor lines, which are written when an epoch ends; None when there is none to tell.

    A run may end within an epoch, whose line then counts too many steps for its finished epochs: hence the least.
    """
    lengths = [line["step"] / line["epoch"] for line in monitor if line.get("epoch") and line.get("step")]
    return min(lengths) if lengths else None


def _curve(
    title: str,
    lines: list[dict[str, Any]],
    names: dict[str, str],
    length: float | None,
    *,
    scale: float = 1.0,
    zero: bool = False,
) -> str:
    series = {}
    for k, (name, words) in enumerate(names.items()):
        points = [
            (line["step"], line[name] * scale)
            for line in lines
            if isinstance(line.get(name), int | float) and "step" in line
        ]
        x, y = thin([step / (length or 1) for step, _ in points], [value for _, value in points])
        if len(x):
            series[words] = (f"s{k % 8}", (x, y))
    return _chart(title, series, x_label="epoch" if length else "step", zero=zero) if series else ""


def _chart(
    title: str, lines: dict[str, tuple[str, Series]], *, x_label: str, log: bool = False, zero: bool = False
) -> str:
    svg = line_chart(lines, title=title, x_label=x_label, log=log, zero=zero)
    legend = _legend({name: colour for name, (colour, _) in lines.items()}) if len(lines) > 1 else ""
    return f'<div class="chart"><h3>{escape(title)}</h3>{svg}{legend}</div>'


def _ranked(values: Spectrum) -> Series:
    keep = (
        np.unique(np.geomspace(1, len(values), 240).round().astype(int)) - 1
        if len(values) > 240
        else np.arange(len(values))
    )
    positive = keep[values[keep] > 0]
    return positive + 1.0, values[positive]


def _task_rows(task: str, metrics: dict[str, float], run: RunRecord, arms: list[str]) -> str:
    first = main_metric(metrics)
    ordered = sorted(metrics, key=lambda name: name != first)
    rows = [f'<tr class="task"><th colspan="{len(arms) + 1}">{escape(task_name(task))}</th></tr>']
    for name in ordered:
        values = [run.scores[arm].get(task, {}).get(name) for arm in arms]
        there = [value for value in values if value is not None]
        best = max(there) if name in HIGHER else min(there) if name in LOWER else None
        cells = "".join(_cell(name, value, bold=value == best and min(there) < max(there)) for value in values)
        rows.append(f"<tr><th>{escape(metric_name(name))}</th>{cells}</tr>")
    return f"<tbody>{''.join(rows)}</tbody>"


def _cell(name: str, value: float | None, *, bold: bool) -> str:
    text, mark = "–" if value is None else score(name, value), ' class="best"' if bold else ""
    return f"<td{mark}>{text}</td>"


def _score_bars(run: RunRecord, arms: list[str]) -> str:
    charts = []
    for task, metrics in run.scores["encoder"].items():
        name = main_metric(metrics)
        if name not in SHARES:
            continue
        values = {arm: value for arm in arms if (value := run.scores[arm].get(task, {}).get(name)) is not None}
        bars = [(ARM_COLOURS[arm], value, score(name, value)) for arm, value in values.items()]
        title = f"{task_name(task)}: {metric_name(name)}"
        head = f"<h3>{escape(task_name(task))}<small>{escape(metric_name(name))}</small></h3>"
        charts.append(f'<div class="chart bar">{head}{bar_chart(bars, title=title)}</div>')
    return (
        f'{_legend({ARM_NAMES[arm]: ARM_COLOURS[arm] for arm in arms})}<div class="charts bars">{"".join(charts)}</div>'
        if charts
        else ""
    )


def _legend(colours: dict[str, str]) -> str:
    """Names and the lines they stand for."""
    keys = "".join(
        f'<span><i style="background:var(--{colour})"></i>{escape(name)}</span>' for name, colour in colours.items()
    )
    return f'<p class="legend">{keys}</p>'


def _tested(run: RunRecord) -> str:
    count, split = run.tested, run.meta.get("split")
    if not count:
        return ""
    return escape(f"Measured with the encoder frozen, on {count:,} images{f' ({split})' if split else ''}. ")


def _backbone(report: ReportData) -> str:
    facts = report.encoder or report.run.encoder.get("config", report.run.encoder)
    name = facts.get("name") or report.run.setting("backbone")
    if not report.encoder:
        return str(name or "")
    return (
        f"{name}: {facts['parameters'] / 1e6:.1f} M parameters, {facts['dim']} dimensions, one cell per "
        f"{facts['stride']} px, {facts['pool']} pooling"
    )


def _data(report: ReportData) -> str:
    data, named, trained = report.data, report.run.setting("data"), report.run.trained
    if data is None:
        return "" if named is None else _value(named)
    count = f": {trained:,} images trained on" if trained else ""
    labels = f"{len(data.classes)} classes (used for scores only)" if data.classes else "no labels"
    other = f"{data.images:,} other images ({data.split})" if data.split else f"{data.images:,} images"
    return f"{data.name}{count}, {labels}; those shown here are from {other}"


def _training(run: RunRecord) -> str:
    if not run.training:
        return ""
    last = run.training[-1]
    parts = [f"{last['step']:,} steps" if isinstance(last.get("step"), int) else ""]
    rates = [
        line["images_per_second"] for line in run.training if isinstance(line.get("images_per_second"), int | float)
    ]
    if isinstance(last.get("time"), int | float):
        parts.append(duration(last["time"]))
    if rates:
        parts.append(f"{short_number(float(np.median(rates)))} images per second (median)")
    return ", ".join(part for part in parts if part)


def _skipped(run: RunRecord) -> str:
    if not run.skipped:
        return ""
    count = len(run.skipped)
    shown = "\n".join(run.skipped[:500]) + (f"\n… and {count - 500:,} more in skipped.txt" if count > 500 else "")
    what = "file was" if count == 1 else "files were"
    return _unfold(f"{count:,} {what} unreadable and skipped", shown)


def _unfold(summary: str, text: str) -> str:
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>" if text.strip() else ""


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return short_number(value) if isinstance(value, float) else str(value)
