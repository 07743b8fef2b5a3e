"""What `glocal pretrain` and `glocal evaluate` are made of: the rooms below, in order."""

from __future__ import annotations

import json
import logging
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import DDPStrategy

from glocal.backbones import Backbone, build_backbone, save_encoder
from glocal.backbones.build import OPTIONS as BACKBONE_OPTIONS
from glocal.data import describe, open_source
from glocal.diagnostics import diagnose
from glocal.errors import UsageError
from glocal.evaluation.baseline import score_with_baselines
from glocal.heads import sync_batch_norms
from glocal.methods import check_fits, method_class, method_options, resolve_options
from glocal.random import derive
from glocal.report import write_report
from glocal.report.records import is_score
from glocal.training import Monitor, Schedule, TrainingStopped, fit, read_metrics
from glocal.training.allocation import keep_freed_memory
from glocal.training.compilation import worth_compiling
from glocal.training.online_eval import OnlineEval
from glocal.training.plan import Plan, decide_momentum, decide_optimization, decide_sizes, finer_stride
from glocal.training.precision import precision_arguments
from glocal.training.run import environment, new_run, read_config, write_config
from glocal.views import Appearance, PixelCache, ViewLoader, worth_caching


def start_run(config: dict[str, Any], options: dict[str, Any], *, out: str | None, quiet: bool) -> Path:
    """Decide what was left open, create the run's directory, train, evaluate, report. See `glocal.pretrain`."""
    cls = method_class(config["method"])
    check(config)
    if not config["data"]:
        raise UsageError("no data given; name a folder of images, for example: glocal pretrain photos/")
    source = open_source(config["data"])
    if "LOCAL_WORLD_SIZE" in os.environ:  # under torchrun, which has started the processes itself
        local = int(os.environ["LOCAL_WORLD_SIZE"])
        config |= {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}
    processes = config["devices"] * config["num_nodes"]
    plan = Plan(dict(config))
    decide_sizes(plan, len(source), processes)
    batch = plan.config["batch_size"] * processes
    plan.config |= resolve_options(cls, plan.config["preset"], batch, options | {"image_size": config["image_size"]})
    if "momentum" not in options:
        decide_momentum(plan, _steps(plan.config, len(source), processes))
    name = f"{config['method']}-{config['backbone']}-{Path(source.name).name}"
    run = new_run(out, name.replace("/", "-").replace(":", "-"))
    return _run(run, plan, source, resume=False, quiet=quiet)


def continue_run(run: Path, *, workers: int | None, quiet: bool) -> Path:
    """Go on where a run stopped, exactly as if it had not."""
    config = read_config(run)
    if workers is not None:
        config["workers"] = workers
    return _run(run, Plan(config), open_source(config["data"]), resume=True, quiet=quiet)


def _steps(config: dict[str, Any], images: int, processes: int) -> int:
    """Optimiser steps of the whole run."""
    steps = config["epochs"] * (images // (config["batch_size"] * processes))
    return min(steps, config["max_steps"] or steps)


def check(config: dict[str, Any]) -> None:
    """Refuse numbers that make no sense, before any work."""
    for name, least in {
        "image_size": 8,
        "epochs": 1,
        "max_steps": 1,
        "batch_size": 2,
        "accumulate": 1,
        "workers": 0,
        "report_images": 10,
    }.items():
        if config[name] is not None and config[name] < least:
            raise UsageError(f"--{name.replace('_', '-')} {config[name]} is too small; it must be at least {least}")
    for name in ("lr", "weight_decay", "warmup_epochs", "trust_coefficient", "clip", "drop_path"):
        if config[name] is not None and not 0 <= config[name] < float("inf"):
            raise UsageError(f"--{name.replace('_', '-')} {config[name]} must be a finite number of at least 0")
    for name in ("devices", "num_nodes"):
        if config[name] < 1:
            raise UsageError(f"--{name.replace('_', '-')} {config[name]} must be at least 1")
    if config["batch_size"] is not None and config["batch_size"] % config["accumulate"]:
        raise UsageError(
            f"--batch-size {config['batch_size']} is not a multiple of --accumulate {config['accumulate']}"
        )


def _run(run: Path, plan: Plan, source: Any, *, resume: bool, quiet: bool) -> Path:
    config, cls = plan.config, method_class(plan.config["method"])
    fabric = _launch(config)
    run = Path(fabric.broadcast(str(run)))
    processes, main, on_cpu = fabric.world_size, fabric.is_global_zero, fabric.device.type == "cpu"
    encoder, method = _build(plan, cls, resume=resume)
    check_fits(encoder, method.recipe)
    if processes > 1:
        sync_batch_norms(method)
    steps = _steps(config, len(source), processes)
    optimization = decide_optimization(plan, method.optimization, steps, processes)
    schedule = Schedule(
        **{name: config[name] for name in ("epochs", "max_steps", "batch_size", "accumulate", "lr", "clip")},
        monitor_every=config["monitor_every"],
        checkpoint_steps=config["checkpoint_steps"],
    )
    pixels = _pixel_cache(fabric, plan, source, method.recipe, resume=resume)
    _compile(fabric, plan, method, steps, resume=resume)
    appearance = Appearance(method.recipe, encoder.mean, encoder.std, config["seed"])
    loader = ViewLoader(
        source,
        method.recipe,
        batch_size=config["batch_size"] // config["accumulate"],
        seed=config["seed"],
        workers=config["workers"],
        low_priority=on_cpu,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        cache=pixels,
        appearance=appearance if on_cpu else None,
    )
    plan.notes += loader.notes
    if main and not resume:
        write_config(run, config)
    if main and not quiet:
        print(f"{cls.title} · {config['backbone']} · {describe(source)} → {run}")
        for note in plan.notes:
            print(f"  {note}")
    at = fit(
        fabric,
        method,
        loader,
        appearance,
        run,
        optimization=optimization,
        schedule=schedule,
        seed=config["seed"],
        resume=resume,
        monitor=_monitor(run, source, config),
        quiet=quiet,
    )
    if main:
        _list_skipped(run, source, at.skipped or {}, quiet=quiet)
        save_encoder(
            encoder.cpu().eval(), run, method=config["method"], steps=at.step, images=len(source), **environment()
        )
        _conclude(run, encoder, config, quiet=quiet)
    return run


def _pixel_cache(fabric: Fabric, plan: Plan, source: Any, recipe: Any, *, resume: bool) -> PixelCache | None:
    """Where decoded images are kept, if the person or the first process's free space says so."""
    plan.config.setdefault("cache", False if resume else None)  # runs from before there was one
    if plan.config["cache"] is None and plan.config["epochs"] > 2:
        plan.decide("cache", *fabric.broadcast(worth_caching(source, recipe.views)))
    if not plan.config["cache"]:
        return None
    with fabric.rank_zero_first():  # the others find it made
        pixels = PixelCache(source, recipe.views)
    plan.notes.append(pixels.note)
    return pixels


def _compile(fabric: Fabric, plan: Plan, method: Any, steps: int, *, resume: bool) -> None:
    """Compile the encoder and its teacher, if the person or the clock says so."""
    config, sizes = plan.config, [crop.size for crop in method.recipe.views]
    if config.setdefault("compile", False if resume else None) is None:
        images = config["batch_size"] * sizes.count(max(sizes))
        plan.decide("compile", *worth_compiling(fabric, method.encoder, max(sizes), images, steps))
    if config["compile"]:
        for module in method.modules():
            if isinstance(module, Backbone):
                module.compile_training()


def _launch(config: dict[str, Any]) -> Fabric:
    """Processes, precision and threads as configured."""
    config["threads"] = config["threads"] or torch.get_num_threads()
    torch.set_num_threads(config["threads"])
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated")  # its successor is too new
    for name in ("lightning.fabric", "lightning.pytorch"):  # they greet
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        **{name: config[name] for name in ("accelerator", "devices", "num_nodes")},
        **precision_arguments(config["precision"], config["accelerator"]),
        # statistics, queues and banks are equal on all ranks already
        strategy=DDPStrategy(broadcast_buffers=False) if config["devices"] * config["num_nodes"] > 1 else "auto",
    )
    fabric.launch()
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


def _build(plan: Plan, cls: Any, *, resume: bool) -> tuple[Backbone, Any]:
    """The encoder and the method around it, initialised from the seed."""
    config = plan.config

    def encoder(output_stride: int | None) -> Backbone:
        torch.manual_seed(derive(config["seed"], "init"))
        options = {name: config[name] for name in BACKBONE_OPTIONS} | {"output_stride": output_stride}
        return build_backbone(config["backbone"], pool=cls.pool, **options)

    with torch.random.fork_rng():
        built = encoder(config["output_stride"])
        finer = finer_stride(plan, built.stride, getattr(cls, "least_cells", 0))
        if finer and not resume:
            try:
                built = encoder(finer)
            except UsageError as refusal:
                plan.notes.append(f"coarse maps: {refusal}")
            else:
                side = -(-config["image_size"] // finer)
                plan.decide("output_stride", finer, f"maps of {side}×{side} cells to match")
        # a run from before an option was there has its default
        return built, cls(built, **{name: config[name] for name in method_options(cls) if name in config})


def _monitor(run: Path, source: Any, config: dict[str, Any]) -> Monitor:
    """What looks at the encoder during training, and stops a collapse."""
    watch = OnlineEval(source, image_size=config["image_size"], seed=config["seed"])

    def monitor(encoder: Any, epoch: int) -> dict[str, float]:
        numbers = watch(encoder, epoch)
        for found in diagnose(read_metrics(run)):
            if found.name == "complete collapse":  # behind the projector: the encoder follows slowly
                raise TrainingStopped(f"stopped after epoch {epoch}: {found}")
        return numbers

    return monitor


def _list_skipped(run: Path, source: Any, skipped: dict[int, str], *, quiet: bool) -> None:
    """Name the images that could not be read."""
    lines = sorted((source.key(i), reason) for i, reason in skipped.items())
    (run / "skipped.txt").write_text("".join(f"{key}\t{reason}\n" for key, reason in lines))
    if lines and not quiet:
        print(
            f"{len(lines)} images could not be read and were skipped: {', '.join(k for k, _ in lines[:3])}"
            f"{' …' if len(lines) > 3 else ''} (all in {run / 'skipped.txt'})"
        )


def _conclude(run: Path, encoder: Backbone, config: dict[str, Any], *, quiet: bool) -> None:
    """Warn of what went wrong, score, report."""
    for found in [] if quiet else diagnose(read_metrics(run)):
        print(f"warning: {found}")
    if not config["report"]:
        return
    settings = {"image_size": config["image_size"], "seed": config["seed"], "limit": config["report_images"]}
    scores = score_with_baselines(encoder, config["data"], **settings)
    write_json(run / "evaluation.json", scores)
    page = write_report(run)
    if not quiet:
        print(f"{score_table(scores)}\nreport: {page}")


def score_table(result: dict[str, Any]) -> str:
    """Scores as lines, one a number, baselines beside it."""
    rows = []
    for task, scores in result.items():
        if task in ("meta", "start", "pixels") or not isinstance(scores, dict):
            continue
        for name, value in scores.items():
            if is_score(name, value):
                beside = [
                    f"{who} {result[who][task][name]:.3f}"
                    for who in ("start", "pixels")
                    if isinstance(result.get(who, {}).get(task, {}).get(name), float)
                ]
                rows.append(f"{task + '.' + name:<32} {value:.3f}  {'  '.join(beside)}".rstrip())
    return "\n".join(rows)


def write_json(path: Path, result: dict[str, Any]) -> None:
    """Write atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(partial, path)


def encoder_card(spec: str) -> dict[str, str] | None:
    """Rows for an exported encoder's model card, where the encoder is a run's."""
    path = Path(spec)
    if not (path / "config.yaml").exists():
        return None
    config = read_config(path)
    facts = json.loads((path / "encoder.json").read_text()).get("extra", {})
    return {
        "Method": method_class(config["method"]).title,
        "Paper": method_class(config["method"]).paper,
        "Images": f"{facts.get('images', 0):,}",
        "Steps": f"{facts.get('steps', 0):,}",
        "Image size": f"{config['image_size']} px",
    }
