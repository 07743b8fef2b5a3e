"""The report as one HTML page: no request leaves it, everything it shows is inside it."""

from __future__ import annotations

import yaml

from glocal.report.charts import spectrum_charts, training_charts
from glocal.report.collect import ReportData
from glocal.report.facts import subtitle, what_was_run
from glocal.report.figures import data_uri, match_lines
from glocal.report.labels import method_words
from glocal.report.scores import tables
from glocal.report.verdict import judge


def render(report: ReportData) -> str:
    """The whole page. Every text is escaped where the templates put it, unless they say `safe`."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    run = report.run
    templates = Environment(
        loader=PackageLoader("glocal.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters |= {"uri": data_uri, "match_lines": match_lines}
    charts = training_charts(run)
    return templates.get_template("page.html").render(
        report=report,
        run=run,
        title=f"{method_words(run.config.get('method'))[0]}: {run.path.resolve().name}",
        subtitle=subtitle(report),
        verdict=judge(run, report.encoder.get("dim"), report.diagnoses, pictures=bool(report.neighbours)),
        tables=tables(run),
        charts=charts,
        spectra=spectrum_charts(report.spectra, run.names),
        facts=what_was_run(report),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True) if run.config else "",
    )
