"""What was run, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from glocal.methods import citation
from glocal.report.collect import ReportData
from glocal.report.labels import duration, short_number
from glocal.report.records import RunRecord

NAMED = (
    "preset",
    "epochs",
    "max_steps",
    "batch_size",
    "image_size",
    "optimizer",
    "lr",
    "weight_decay",
    "alpha",
    "seed",
)
"""The settings that are named; all of them are in config.yaml, which is shown too."""


def what_was_run(report: ReportData) -> dict[str, str]:
    """Method, encoder, data, settings, time, versions; those that are known."""
    run, encoder = report.run, report.encoder
    backbone = str(run.encoder.get("name") or run.config.get("backbone") or "")
    if encoder is not None:
        millions = sum(p.numel() for p in encoder.parameters()) / 1e6
        backbone = f"{encoder.name}: {millions:.1f} M parameters, {encoder.dim} dimensions, one cell per "
        backbone += f"{encoder.stride} px, {encoder.pool} pooling"
    settings = {name.replace("_", " "): run.config[name] for name in NAMED if run.config.get(name) is not None}
    facts = {
        "Method": ". ".join(part for part in citation(str(run.config.get("method", ""))) if part),
        "Backbone": backbone,
        "Started from": run.start if "start" in run.scores else "",
        "Data": _data(report),
        "Settings": ", ".join(f"{name} {_value(value)}" for name, value in settings.items()),
        "Training": _training(run),
        **{name.capitalize(): (run.encoder.get("extra") or {}).get(name, "") for name in ("versions", "hardware")},
    }
    return {name: text for name, text in facts.items() if text}


def subtitle(report: ReportData) -> str:
    """The network and what it was trained on."""
    run, source = report.run, report.source
    name = report.encoder.name if report.encoder else str(run.config.get("backbone") or "")
    count = f"{run.trained:,} images of " if run.trained else ""
    return ", ".join(part for part in (name, f"trained on {count}{source.name}" if source else "") if part)


def _data(report: ReportData) -> str:
    source, named, trained = report.source, report.run.config.get("data"), report.run.trained
    if source is None:
        return "" if named is None else _value(named)
    count = f": {trained:,} images trained on" if trained else ""
    labels = f"{len(source.classes)} classes (used for scores only)" if source.classes else "no labels"
    other = f"{len(source):,} other images ({report.split})" if report.split else f"{len(source):,} images"
    return f"{source.name}{count}, {labels}; those shown here are from {other}"


def _training(run: RunRecord) -> str:
    last = run.training[-1] if run.training else {}
    rates = [rate for line in run.training if isinstance(rate := line.get("images_per_second"), int | float)]
    parts = [f"{last['step']:,} steps" if last else ""]
    parts += [duration(last["time"]) if isinstance(last.get("time"), int | float) else ""]
    parts += [f"{short_number(float(np.median(rates)))} images per second (median)" if rates else ""]
    return ", ".join(part for part in parts if part)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return short_number(value) if isinstance(value, float) else str(value)
