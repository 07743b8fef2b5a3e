"""The report as one HTML page: no request leaves it, everything it shows is inside it."""

from __future__ import annotations

import yaml

from glocal.methods import citation
from glocal.report.charts import spectrum_charts, training_charts
from glocal.report.collect import ReportData
from glocal.report.facts import subtitle, what_was_run
from glocal.report.figures import data_uri, match_lines
from glocal.report.scores import tables
from glocal.report.verdict import judge


def render(report: ReportData) -> str:
    """The whole page. Every text that it shows is escaped; the templates hold all of its HTML."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(loader=PackageLoader("glocal.report"), autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True
    templates.filters |= {"uri": data_uri, "match_lines": match_lines}
    run, found, dim = report.run, tables(report.run), report.encoder.dim if report.encoder else None
    return templates.get_template("page.html").render(
        report=report,
        run=run,
        title=f"{citation(str(run.config.get('method', 'Run')))[0]}: {run.path.resolve().name}",
        subtitle=subtitle(report),
        verdict=judge(run, found, dim=dim, diagnoses=report.diagnoses, pictures=bool(report.matches)),
        tables=found,
        charts=training_charts(run),
        spectra=spectrum_charts(report.spectra, run.names),
        facts=what_was_run(report),
        config=yaml.safe_dump(run.config, sort_keys=False, allow_unicode=True),
    )
