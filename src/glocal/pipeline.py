"""What `glocal pretrain` and `glocal evaluate` are made of: the rooms below, in order."""

from __future__ import annotations

import copy
import json
import logging
import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric

from glocal.backbones import Backbone, build_backbone, save_encoder
from glocal.data import describe, open_source
from glocal.diagnostics import diagnose
from glocal.diagnostics.watch import Watch
from glocal.errors import UsageError
from glocal.evaluation import Pixels, evaluate_encoder, possible_tasks
from glocal.heads import sync_batch_norms
from glocal.methods import method_class, method_options, resolve_options
from glocal.random import derive
from glocal.report import write_report
from glocal.report.records import is_score
from glocal.training import Schedule, TrainingStopped, fit, read_metrics
from glocal.training.plan import Plan, decide_optimization, decide_sizes, decide_stride
from glocal.training.run import environment, new_run, read_config, write_config
from glocal.views import ViewLoader

BACKBONE_OPTIONS = ("image_size", "pretrained", "stem", "output_stride", "drop_path")


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
    name = f"{config['method']}-{config['backbone']}-{Path(source.name).name}"
    run = new_run(out, name.replace("/", "-").replace(":", "-"))
    return _run(run, plan, source, resume=False, quiet=quiet)


def continue_run(run: Path, *, workers: int | None, quiet: bool) -> Path:
    """Go on where a run stopped, exactly as if it had not."""
    config = read_config(run)
    if workers is not None:
        config["workers"] = workers
    return _run(run, Plan(config), open_source(config["data"]), resume=True, quiet=quiet)


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
    for name in ("lr", "weight_decay", "warmup_epochs", "trust", "clip", "drop_path"):
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
    config = plan.config
    cls = method_class(config["method"])
    config["threads"] = config["threads"] or torch.get_num_threads()
    torch.set_num_threads(config["threads"])
    processes = config["devices"] * config["num_nodes"]
    for name in ("lightning.fabric", "lightning.pytorch"):  # they greet
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=config["accelerator"],
        devices=config["devices"],
        num_nodes=config["num_nodes"],
        precision=config["precision"],
        strategy="ddp" if processes > 1 else "auto",
    )
    fabric.launch()
    run = Path(fabric.broadcast(str(run)))
    with torch.random.fork_rng():
        torch.manual_seed(derive(config["seed"], "init"))
        if not resume:
            decide_stride(plan, "resnet" if "resnet" in config["backbone"] else "other")
        encoder = build_backbone(config["backbone"], pool=cls.pool, **{name: config[name] for name in BACKBONE_OPTIONS})
        method = cls(encoder, **{name: config[name] for name in method_options(cls)})
    if processes > 1:
        sync_batch_norms(method)
    steps = config["epochs"] * (len(source) // (config["batch_size"] * processes))
    optimization = decide_optimization(plan, method.optimization, min(steps, config["max_steps"] or steps), processes)
    schedule = Schedule(
        **{name: config[name] for name in ("epochs", "max_steps", "batch_size", "accumulate", "lr", "clip")},
        monitor_every=config["monitor_every"],
        checkpoint_steps=config["checkpoint_steps"],
    )
    loader = ViewLoader(
        source,
        method.recipe,
        batch_size=config["batch_size"] // config["accumulate"],
        seed=config["seed"],
        workers=config["workers"],
        rank=fabric.global_rank,
        world_size=fabric.world_size,
    )
    main = fabric.is_global_zero
    if main and not resume:
        write_config(run, config)
    if main and not quiet:
        print(f"{cls.title} · {config['backbone']} · {describe(source)} → {run}")
        for note in plan.notes:
            print(f"  {note}")
    watch = Watch(source, image_size=config["image_size"], seed=config["seed"])

    def monitor(encoder: Any, epoch: int) -> dict[str, float]:
        numbers = watch(encoder, epoch)
        for found in diagnose(read_metrics(run)):
            if found.name == "complete collapse":  # behind the projector: the encoder follows slowly
                raise TrainingStopped(f"stopped after epoch {epoch}: {found}")
        return numbers

    at = fit(
        fabric,
        method,
        loader,
        run,
        optimization=optimization,
        schedule=schedule,
        seed=config["seed"],
        resume=resume,
        monitor=monitor,
        quiet=quiet,
    )
    if not main:
        return run
    skipped = sorted((source.key(i), reason) for i, reason in (at.skipped or {}).items())
    (run / "skipped.txt").write_text("".join(f"{key}\t{reason}\n" for key, reason in skipped))
    if skipped and not quiet:
        print(
            f"{len(skipped)} images could not be read and were skipped: {', '.join(k for k, _ in skipped[:3])}"
            f"{' …' if len(skipped) > 3 else ''} (all in {run / 'skipped.txt'})"
        )
    for found in [] if quiet else diagnose(read_metrics(run)):
        print(f"warning: {found}")
    encoder = encoder.cpu().eval()
    save_encoder(encoder, run, method=config["method"], steps=at.step, images=len(source), **environment())
    if config["report"]:
        settings = {"image_size": config["image_size"], "seed": config["seed"], "limit": config["report_images"]}
        scores = score_with_baselines(encoder, config["data"], **settings)
        write_json(run / "evaluation.json", scores)
        page = write_report(run)
        if not quiet:
            print(f"{score_table(scores)}\nreport: {page}")
    return run


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
