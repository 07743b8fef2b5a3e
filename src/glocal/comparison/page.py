"""The table and the figure of a comparison."""

import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glocal.evaluation import declared
from glocal.run import write_json

Results = dict[str, list[dict[str, Any]]]
Baselines = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Column:
    """A score that lines are compared in: of which task, its name and heading, and which is the best where one is."""

    task: str
    score: str
    heading: str
    best: Callable[[Sequence[float]], float] | None


def columns_of(scores: Iterable[dict[str, Any]]) -> list[Column]:
    """The main score of every task in some encoders' scores; of a task without one, the first that it names."""
    found: dict[str, Column] = {}
    for name, returned in (item for each in scores for item in each.items() if item[0] != "meta"):
        task = declared(name)
        numbers = task.scores(returned)
        score = task.main or next((word for word in task.words if word in numbers), next(iter(numbers), None))
        if name not in found and score in numbers:
            best = None if task.main is None else max if task.higher_is_better else min
            found[name] = Column(name, score, f"{task.title}: {task.in_words(score)}", best)
    return list(found.values())


def write_page(out: Path, protocol: dict[str, Any], results: Results, baselines: Baselines) -> None:
    """Write comparison.json (all numbers), comparison.md (the table) and comparison.png.

    Results are, by line, one a seed: "scores", "cost", "steps", "seed"; baselines are scores by name.
    """
    write_json(out / "comparison.json", {"protocol": protocol, "results": results, "baselines": baselines})
    columns = columns_of(result["scores"] for runs in results.values() for result in runs)
    (out / "comparison.md").write_text(table(protocol, results, baselines, columns, out))
    draw(results, baselines, columns, out / "comparison.png")


def table(protocol: dict[str, Any], results: Results, baselines: Baselines, columns: list[Column], out: Path) -> str:
    """The comparison as Markdown: mean ± standard deviation over seeds, the best mean of the methods in bold."""
    joules = any(run["cost"]["joules"] is not None for runs in results.values() for run in runs)
    costs = ["steps", "img/s", "memory, GB", "minutes", *["kJ"] * joules]
    head, rows = ["method", "seeds", *(column.heading for column in columns), *costs], []
    means = {c: [statistics.fmean(found) for runs in results.values() if (found := values(runs, c))] for c in columns}
    for text, runs in results.items():
        cells = [text, str(len(runs))]
        for column in columns:
            cell = mean_and_range(found := values(runs, column))
            leads = column.best and found and statistics.fmean(found) == column.best(means[column])
            cells.append(f"**{cell}**" if leads and len(results) > 1 else cell)
        known = {key: [v for run in runs if (v := run["cost"][key]) is not None] for key in runs[0]["cost"]}
        cost = {key: statistics.fmean(found) if found else 0.0 for key, found in known.items()}
        cells += [str(runs[0]["steps"]), f"{cost['images_per_second']:.0f}", f"{cost['peak_memory'] / 1e9:.1f}"]
        cells += [f"{cost['seconds'] / 60:.1f}", *([f"{cost['joules'] / 1e3:.1f}"] if joules else [])]
        rows.append(cells)
    for name, scores in baselines.items():
        cells = [name, "", *(mean_and_range(values([{"scores": scores}], c)) for c in columns)]
        rows.append(cells + [""] * (len(head) - len(cells)))
    settings = protocol["settings"]
    lines = [
        f"# {len(results)} methods on {', '.join(protocol['data'])}",
        "",
        f"Budget {protocol['budget']} each, {settings['backbone']} at {settings['image_size']} px, scored on "
        f"{protocol['evaluate_on']} by the last step's encoder, on test images. Mean ± standard deviation over seeds.",
        "",
        *("| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *rows)),
        "",
        "![Scores of every seed](comparison.png)",
        "",
        "Any line again:",
        "",
        *(f"    glocal pretrain --config {path} --out NEW" for path in sorted((out / "runs").glob("*-[0-9]*.yaml"))),
        "",
    ]
    return "\n".join(lines)


def values(runs: list[dict[str, Any]], column: Column) -> list[float]:
    """One score of every seed that has it."""
    found = (run["scores"].get(column.task, {}) for run in runs)
    return [scores[column.score] for scores in found if column.score in scores]


def mean_and_range(numbers: list[float]) -> str:
    """'.412 ± .010', with fewer digits for numbers over 10."""
    if not numbers:
        return "–"
    digits = 3 if max(numbers) < 10 else 1
    mean = f"{statistics.fmean(numbers):.{digits}f}"
    return mean if len(numbers) == 1 else f"{mean} ± {statistics.stdev(numbers):.{digits}f}"


def draw(results: Results, baselines: Baselines, columns: list[Column], path: Path) -> None:
    """One panel a score: a dot per seed, a bar at the mean, a line per baseline."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(results)
    figure = Figure(figsize=(max(4, 2.6 * len(columns)), 1.2 + 0.35 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, max(1, len(columns)), sharey=True, squeeze=False)[0]
    for axis, column in zip(axes, columns, strict=False):
        for row, name in enumerate(names):
            found = values(results[name], column)
            axis.plot(found, [row] * len(found), "o", ms=4, alpha=0.6, color="C0")
            if found:
                axis.plot([statistics.fmean(found)] * 2, [row - 0.25, row + 0.25], color="C0", lw=2)
        for k, (name, scores) in enumerate(baselines.items()):
            for value in values([{"scores": scores}], column):
                axis.axvline(value, color="0.5", ls=(":", "--")[k % 2], lw=1, label=name)
        axis.set_title(column.heading.replace(": ", "\n"), fontsize=10)
        axis.set_yticks(range(len(names)), names)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].invert_yaxis()
    handles, labels = axes[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
