"""What is left when training has ended: the encoder, scores, a report."""

from __future__ import annotations

import copy
import platform
from importlib.metadata import version
from typing import Any

import torch

from glocal.backbones import Backbone, build_backbone, save_encoder
from glocal.config import PretrainConfig
from glocal.data.source import ImageSource
from glocal.diagnostics import diagnose
from glocal.evaluation import Pixels, evaluate_encoder, possible_tasks
from glocal.random import derive
from glocal.report import write_report
from glocal.report.records import is_score
from glocal.run import Run
from glocal.training.checkpoint import Position


def conclude(
    run: Run, config: PretrainConfig, encoder: Backbone, source: ImageSource, ended: Position, *, quiet: bool
) -> None:
    """Save the encoder, say what went wrong, score, report."""
    save_encoder(encoder, run.path, method=config.method, steps=ended.step, images=len(source), **environment())
    reasons = {source.key(i): reason for i, reason in ended.skipped.items()}
    run.write_skipped(reasons)
    if not quiet:
        if reasons:
            first = ", ".join(sorted(reasons)[:3]) + (" …" if len(reasons) > 3 else "")
            print(f"{len(reasons)} images could not be read and were skipped: {first} (all in {run.skipped_file})")
        for found in diagnose(run.metrics()):
            print(f"warning: {found}")
    if not config.report:
        return
    settings = {"image_size": config.image_size, "seed": config.seed, "limit": config.report_images}
    scores = score_with_baselines(encoder, source if config.data is None else config.data, **settings)
    run.write_scores(scores)
    page = write_report(run.path, encoder=encoder, source=source if config.data is None else None)
    if not quiet:
        print(f"{score_table(scores)}\nreport: {page}")


def score(encoder: Any, data: Any, *, tasks: list[str] | None = None, **settings: Any) -> dict[str, Any]:
    """Scores of one encoder on all tasks asked for, or on all that the data allows."""
    return evaluate_encoder(encoder, data, tasks=tasks or possible_tasks(data), **settings)


def score_with_baselines(encoder: Backbone, data: Any, **settings: Any) -> dict[str, Any]:
    """`score`, with the same architecture at random initialisation and raw pixels beside it."""
    result = score(encoder, data, **settings)
    pixels = Pixels(stride=encoder.stride, image_size=encoder.image_size)
    return {**result, "random": score(at_random(encoder), data, **settings), "pixels": score(pixels, data, **settings)}


def score_table(result: dict[str, Any]) -> str:
    """Scores as lines, one a number, baselines beside it."""
    rows = []
    for task, scores in result.items():
        if task in ("meta", "random", "pixels") or not isinstance(scores, dict):
            continue
        for name, value in scores.items():
            if is_score(name, value):
                beside = [
                    f"{who} {result[who][task][name]:.3f}"
                    for who in ("random", "pixels")
                    if isinstance(result.get(who, {}).get(task, {}).get(name), float)
                ]
                rows.append(f"{task + '.' + name:<32} {value:.3f}  {'  '.join(beside)}".rstrip())
    return "\n".join(rows)


def at_random(encoder: Backbone) -> Backbone:
    """The same architecture before any training, in evaluation mode."""
    with torch.random.fork_rng():
        torch.manual_seed(derive(0, "random initialisation"))
        return build_backbone(**copy.deepcopy(encoder.config)).eval()


def environment() -> dict[str, str]:
    """Versions and hardware, to be kept with what was trained on them."""
    import timm

    threads = torch.get_num_threads()
    cpu = f"{platform.system()} {platform.machine()}, {threads} CPU thread{'s' if threads > 1 else ''}"
    cuda = torch.cuda.is_available()
    return {
        "versions": f"glocal {version('glocal')}, PyTorch {torch.__version__}, timm {timm.__version__}, "
        f"Python {platform.python_version()}",
        "hardware": f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}" if cuda else cpu,
    }
