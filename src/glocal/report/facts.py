"""What was run, in words."""

from __future__ import annotations

from typing import Any

import numpy as np

from glocal.report.collect import ReportData
from glocal.report.labels import duration, method_words, short_number
from glocal.report.records import RunRecord

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


def what_was_run(report: ReportData) -> dict[str, str]:
    """Method, encoder, data, settings, time, versions; those that are known."""
    run = report.run
    extra = run.encoder.get("extra") or {}
    facts = {
        "Method": ". ".join(part.rstrip(".") for part in method_words(run.config.get("method")) if part) + ".",
        "Backbone": backbone(report),
        "Started from": run.start if "start" in run.scores else "",
        "Data": _data(report),
        "Settings": ", ".join(
            words.format(_value(run.config[name]))
            for name, words in SETTINGS.items()
            if run.config.get(name) is not None
        ),
        "Training": _training(run),
        "Versions": str(extra.get("versions", "")),
        "Hardware": str(extra.get("hardware", "")),
    }
    return {name: text for name, text in facts.items() if text}


def subtitle(report: ReportData) -> str:
    """The network and what it was trained on."""
    run, data = report.run, report.data
    name = str(report.encoder.get("name") or run.config.get("backbone") or "")
    count = f"{run.trained:,} images of " if run.trained else ""
    return ", ".join(part for part in (name, f"trained on {count}{data.name}" if data else "") if part)


def backbone(report: ReportData) -> str:
    """The network and its size."""
    facts = report.encoder
    if not facts:
        return str(report.run.encoder.get("name") or report.run.config.get("backbone") or "")
    return (
        f"{facts['name']}: {facts['parameters'] / 1e6:.1f} M parameters, {facts['dim']} dimensions, one cell per "
        f"{facts['stride']} px, {facts['pool']} pooling"
    )


def _data(report: ReportData) -> str:
    data, named, trained = report.data, report.run.config.get("data"), report.run.trained
    if data is None:
        return "" if named is None else _value(named)
    count = f": {trained:,} images trained on" if trained else ""
    labels = f"{len(data.classes)} classes (used for scores only)" if data.classes else "no labels"
    other = f"{data.images:,} other images ({data.split})" if data.split else f"{data.images:,} images"
    return f"{data.name}{count}, {labels}; those shown here are from {other}"


def _training(run: RunRecord) -> str:
    if not run.training:
        return ""
    last, numbers = run.training[-1], int | float
    rates = [rate for line in run.training if isinstance(rate := line.get("images_per_second"), numbers)]
    parts = [f"{last['step']:,} steps" if isinstance(last.get("step"), int) else ""]
    parts += [duration(last["time"]) if isinstance(last.get("time"), numbers) else ""]
    parts += [f"{short_number(float(np.median(rates)))} images per second (median)" if rates else ""]
    return ", ".join(part for part in parts if part)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return short_number(value) if isinstance(value, float) else str(value)
