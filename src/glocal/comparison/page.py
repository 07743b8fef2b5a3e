"""The page of a comparison: which method, every score with its interval, what it cost."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glocal.comparison.answer import Column, Estimate, Results, answer, columns_of, estimate, unbeaten
from glocal.run import write_atomically, write_json

Baselines = dict[str, dict[str, Any]]


def write_page(out: Path, protocol: dict[str, Any], results: Results, baselines: Baselines) -> None:
    """Write comparison.json (all numbers, and the answer in words) and comparison.html.

    Results are, by line, one a seed: "scores", "cost", "steps", "seed"; baselines are scores by name.
    """
    columns = columns_of(result["scores"] for runs in results.values() for result in runs)
    first = f"{answer(results, columns)} {unbeaten(results, baselines, columns)}".strip()
    said = [first, *(in_words(column, results) for column in columns)]
    numbers = {"answer": said, "protocol": protocol, "results": results, "baselines": baselines}
    write_json(out / "comparison.json", numbers)
    write_atomically(out / "comparison.html", render(out, said[0], protocol, results, baselines, columns))


def in_words(column: Column, results: Results) -> str:
    """A score of all lines, in one: 'Nearest neighbours: accuracy: vicreg 41.2% (40.1%–42.3%), ...'."""
    found = {name: estimate(runs, column) for name, runs in results.items()}
    said = [
        f"{name} {column.printed(each.mean)}{f' ({between(column, each)})' if each.interval else ''}"
        for name, each in found.items()
        if each
    ]
    return f"{column.heading}: {', '.join(said)}"


def between(column: Column, found: Estimate) -> str:
    """The interval: '40.1%–42.3%'."""
    return "–".join(map(column.printed, found.interval or ()))


def render(
    out: Path, said: str, protocol: dict[str, Any], results: Results, baselines: Baselines, columns: Sequence[Column]
) -> str:
    """The whole page."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    templates = Environment(loader=PackageLoader("glocal.report"), autoescape=True, undefined=StrictUndefined)
    templates.trim_blocks = templates.lstrip_blocks = True
    arms = {**results, **{name: [{"scores": scores, "seed": 0}] for name, scores in baselines.items()}}
    tables = [(column, {name: estimate(runs, column) for name, runs in arms.items()}) for column in columns]
    metas = [run["scores"].get("meta", {}) for runs in results.values() for run in runs]
    return templates.get_template("comparison.html").render(
        title=f"{len(results)} method{'s' if len(results) != 1 else ''} on {', '.join(protocol['data'])}",
        answer=said,
        protocol=protocol,
        tested=next((meta["n_test"] for meta in metas if meta.get("n_test")), None),
        tables=tables,
        full=_full,
        arms=list(arms),
        lines=list(results),
        between=between,
        costs={name: costs(runs) for name, runs in results.items()},
        seeds={name: len(runs) for name, runs in results.items()},
        again=sorted(map(str, (out / "runs").glob("*-[0-9]*.yaml"))),
    )


def costs(runs: list[dict[str, Any]]) -> dict[str, str]:
    """What the runs of a line took, on average."""
    known = {key: [v for run in runs if (v := run["cost"][key]) is not None] for key in runs[0]["cost"]}
    mean = {key: statistics.fmean(found) for key, found in known.items() if found}
    said = {"steps": str(runs[0]["steps"])}
    said |= {"images per second": f"{mean['images_per_second']:.0f}", "memory": f"{mean['peak_memory'] / 1e9:.1f} GB"}
    said |= {"minutes": f"{mean['seconds'] / 60:.1f}"}
    return said | ({"energy": f"{mean['joules'] / 1e3:.1f} kJ"} if "joules" in mean else {})


def _full(column: Column, table: dict[str, Estimate | None]) -> float:
    """Where a bar's axis ends, which begins at 0: at 1 for shares, else at the largest."""
    if column.task.share_of(column.score):
        return 1.0
    return max((max([*each.seeds, *(each.interval or ())]) for each in table.values() if each), default=1.0) or 1.0
