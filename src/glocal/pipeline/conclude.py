"""What is left when training has ended: the encoder, scores, a report."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from glocal.adaptation.masks import storage
from glocal.backbones import Backbone, save_encoder
from glocal.config import AdaptConfig, PretrainConfig
from glocal.data import is_text
from glocal.data.source import ImageSource
from glocal.data.stream import Stream
from glocal.diagnostics import diagnose
from glocal.errors import UsageError
from glocal.evaluation import declared
from glocal.evaluation.baseline import score, score_with_baselines
from glocal.evaluation.groups import group_lines
from glocal.generation import save_generator
from glocal.methods import teacher_of
from glocal.progress import shown_progress
from glocal.report import write_report
from glocal.report.records import read_run
from glocal.report.scores import tables
from glocal.report.verdict import judge
from glocal.run import Run, write_json
from glocal.training.checkpoint import Position

KEPT = "nothing that was seen was better than {start}: those are handed over"
BESIDE = ("teacher", "start", "pixels")
"""Whose scores are printed beside the encoder's."""


def conclude(
    run: Run, config: PretrainConfig, method: Any, source: ImageSource, data: Any, ended: Position, *, quiet: bool
) -> None:
    """Save the encoder, say what went wrong, score it and its teacher on `data`, report."""
    encoder: Backbone = method.encoder
    trained = ended.step * (config.batch_size or 0) * config.processes if isinstance(source, Stream) else len(source)
    facts: dict[str, Any] = {"patches": list(config.patches)} if config.patches else {}
    facts |= {"method": config.method, "steps": ended.step, "images": trained, **environment()}
    save_encoder(encoder, run.path, **facts)
    if hasattr(method, "generator"):
        save_generator(method.generator, run.path, **facts)
    reasons = {i if isinstance(i, str) else source.key(i): reason for i, reason in ended.skipped.items()}
    run.write_skipped(reasons)
    if not quiet:
        if ended.guard:
            pruned = isinstance(config, AdaptConfig) and config.by == "prune"
            start = "the pruned weights, untrained" if pruned else "the weights it started from"
            best = f"handed over is the encoder of step {ended.step:,}, the best that was seen"
            print(best if ended.step else KEPT.format(start=start))
        if reasons:
            first = ", ".join(sorted(reasons)[:3]) + (" …" if len(reasons) > 3 else "")
            print(f"{len(reasons)} images could not be read and were skipped: {first} (all in {run.skipped_file})")
        if ended.shrunk:
            print(
                f"{ended.shrunk:,} views had more patches than --tokens {config.tokens} has room for: they were shrunk"
            )
        for found in diagnose(run.metrics()):
            print(f"warning: {found.told(config.to_dict())}")
        if isinstance(config, AdaptConfig):
            print(storage(run.mask_file))
    if not config.report:
        return
    settings: dict[str, Any] = {"image_size": config.image_size, "seed": config.seed, "limit": config.report_images}
    scores: dict[str, Any] = {}
    with shown_progress(quiet) as progress:
        try:
            scores = score_with_baselines(encoder, data, **settings, progress=progress)
            if teacher := teacher_of(method):
                scores["teacher"] = score(teacher, data, **settings, progress=progress)
            write_json(run.scores_file, scores)
        except UsageError as refusal:  # no task can be scored: that costs no report
            if not quiet:
                print(f"not scored: {refusal}")
        if progress:
            progress("the report", 0, 1)
        shown = None if is_text(data) else data
        page = write_report(run.path, encoder=encoder, source=shown, trust_code=True)  # as when it began
    if not quiet and scores:
        record = read_run(run.path)
        if isinstance(config, AdaptConfig):
            print(_change(scores))
        print(f"{score_table(scores)}\n{judge(record, tables(record)).sentence}")
    if not quiet:
        print(f"report: {page}")


def _change(scores: dict[str, Any]) -> str:
    """From the base to the run's encoder: kNN accuracy where there are labels, else stability."""
    task = "knn" if "knn" in scores else "stability"
    arms = (scores.get("start", {}).get(task, {}), scores.get(task, {}))
    before, after = (f"{arm[declared(task).main]:.3f}" if arm else "not scored" for arm in arms)
    return f"{declared(task).title}: {before} → {after}"


def score_table(result: dict[str, Any]) -> str:
    """Scores as lines, one a number, baselines beside it."""
    rows = []
    for task, scores in result.items():
        if task in ("meta", *BESIDE) or not isinstance(scores, dict):
            continue
        for name, value in declared(task).scores(scores).items():
            others = {who: result.get(who, {}).get(task, {}).get(name) for who in BESIDE}
            beside = [f"{who} {other:.3f}" for who, other in others.items() if isinstance(other, float)]
            spread = f" ± {scores['sd'][name]:.3f}" if name in scores.get("sd", {}) else ""
            rows.append(f"{task + '.' + name:<32} {value:.3f}{spread}  {'  '.join(beside)}".rstrip())
        for found in ("groups", "harmful"):
            rows += [line for kind, groups in scores.get(found, {}).items() for line in group_lines(kind, groups)]
    rows += [f"{task + ':':<32} not scored: {why}" for task, why in result["meta"].get("unscored", {}).items()]
    return "\n".join(rows)


def encoder_table(results: dict[str, dict[str, Any]]) -> str:
    """Scores of several encoders side by side, one line a number; gaps between groups are lines, too."""
    rows: dict[str, dict[str, str]] = {}
    for encoder, result in results.items():
        for task, scores in result.items():
            for name, value in declared(task).scores(scores).items() if task not in ("meta", *BESIDE) else ():
                spread = f" ± {scores['sd'][name]:.3f}" if name in scores.get("sd", {}) else ""
                rows.setdefault(f"{task}.{name}", {})[encoder] = f"{value:.3f}{spread}"
                for who in (who for who in BESIDE if isinstance(result.get(who, {}).get(task, {}).get(name), float)):
                    rows.setdefault(f"{task}.{name}, {who}", {})[encoder] = f"{result[who][task][name]:.3f}"
            for kind, found in scores.get("groups", {}).items():
                if "gap" in found:
                    rows.setdefault(f"{task}.{found['score']} gap by {kind}", {})[encoder] = f"{found['gap']:.3f}"
    sizes = {encoder: f"{result['meta']['image_size']} px" for encoder, result in results.items()}
    lines = [
        ["", *results],
        *[["images of", *sizes.values()]] * (len({*sizes.values()}) > 1),
        *([name, *(values.get(encoder, "–") for encoder in results)] for name, values in rows.items()),
    ]
    if all(name.startswith("patch ") for name in results):  # one row each
        lines = [list(line) for line in zip(*lines, strict=True)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    for encoder, result in results.items():
        text += [f"{encoder}, {task}: not scored: {why}" for task, why in result["meta"].get("unscored", {}).items()]
    return "\n".join(text)


def environment() -> dict[str, str]:
    """Versions and hardware, to be kept with what was trained on them."""
    import timm

    threads, python = torch.get_num_threads(), platform.python_version()
    hardware = f"{platform.system()} {platform.machine()}, {threads} CPU thread{'s' if threads > 1 else ''}"
    if torch.cuda.is_available():
        hardware = f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}"
    ours = f"glocal {version('glocal')}, PyTorch {torch.__version__}, timm {timm.__version__}, Python {python}"
    return {"versions": ours, "hardware": hardware}
