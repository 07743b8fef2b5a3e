"""The report as one HTML page: no request leaves it, everything it shows is inside it."""

from functools import cache
from typing import Any

import numpy as np
import yaml

from glocal.methods import citation
from glocal.report.collect import ReportData
from glocal.report.figures import (
    data_uri,
    duration,
    match_lines,
    short_number,
    sparsity_chart,
    spectrum_charts,
    training_charts,
)
from glocal.report.records import RunRecord
from glocal.report.scores import tables
from glocal.report.verdict import judge

NAMED = "preset, epochs, max_steps, batch_size, image_size, optimizer, lr, weight_decay, alpha, by, keep, seed"
"""The settings that are named; all of them are in config.yaml, which is shown too."""


def render(report: ReportData) -> str:
    """The whole page. Every text that it shows is escaped; the templates hold all of its HTML."""
    run, found, dim = report.run, tables(report.run), report.encoder.dim if report.encoder else None
    return (
        templates()
        .get_template("page.html")
        .render(
            report=report,
            run=run,
            title=f"{citation(str(run.config.get('method', 'Run')))[0]}: {run.path.resolve().name}",
            subtitle=subtitle(report),
            verdict=judge(run, found, dim=dim, diagnoses=report.diagnoses, pictures=bool(report.matches)),
            tables=found,
            later={where: (record, tables(record)) for where, record in report.run.later.items()},
            charts=training_charts(run),
            sparsity=sparsity_chart(run),
            spectra=spectrum_charts(report.spectra, run.names),
            facts=what_was_run(report),
            config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
        )
    )


@cache
def templates() -> Any:
    """The templates of all pages."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    found = Environment(loader=PackageLoader("glocal.report"), autoescape=True, undefined=StrictUndefined)
    found.trim_blocks = found.lstrip_blocks = True
    found.filters |= {"uri": data_uri, "match_lines": match_lines}
    return found


def what_was_run(report: ReportData) -> dict[str, str]:
    """Method, encoder, data, settings, time, versions; those that are known."""
    run, encoder = report.run, report.encoder
    backbone = str(run.encoder.get("name") or run.config.get("backbone") or "")
    if encoder is not None:
        millions = sum(p.numel() for p in encoder.parameters()) / 1e6
        backbone = f"{encoder.name}: {millions:.1f} M parameters, {encoder.dim} dimensions, "
        backbone += f"one cell per {encoder.stride} px, " if encoder.reads == "images" else ""
        backbone += f"{encoder.pool} pooling"
    settings = {
        name.replace("_", " "): run.config[name] for name in NAMED.split(", ") if run.config.get(name) is not None
    }
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
    parts = [f"{last['step']:,} steps"] if last else []
    parts += [duration(last["time"])] if isinstance(last.get("time"), int | float) else []
    parts += [f"{short_number(float(np.median(rates)))} images per second (median)"] if rates else []
    return ", ".join(parts)


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(_value(item) for item in value)
    return short_number(value) if isinstance(value, float) else str(value)
