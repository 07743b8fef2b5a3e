"""What is left open of a fine-tuning run, decided from the number of images, each with its reason."""

from dataclasses import replace
from typing import Any

import torch

from glocal.backbones import Backbone, build_backbone
from glocal.config import PretrainConfig
from glocal.errors import UsageError
from glocal.training import Machine, Schedule
from glocal.training.defaults import finer_stride


def decide(
    config: PretrainConfig, images: int, machine: Machine, head: Any
) -> tuple[PretrainConfig, Schedule, list[str]]:
    """The complete configuration, lengths and sizes, and a sentence for each decision.

    Args:
        config: as asked for; `options` are those of fine-tuning.
        images: to learn from.
        machine: what is known of it.
        head: its class.
    """
    notes: list[str] = []
    options = dict(config.options)

    def fill(name: str, value: Any, why: str) -> Any:
        nonlocal config
        among = options if name in options else config.settings()
        if among[name] is None:
            notes.append(f"{name.replace('_', '-')} {value}: {why}")
            if name in options:
                options[name] = value
            else:
                config = replace(config, **{name: value})
            return value
        return among[name]

    few = images < head.few
    why = f"{images:,} images, {'too few' if few else 'enough'} to change the encoder by"
    train = fill("train", "head" if few else "all", why)
    if not 0 <= (options["mixup"] or 0) <= 100:
        raise UsageError(f"--mixup {options['mixup']} is not between 0 and 100")
    if train in ("last", "all"):
        fill("layer_decay", 0.75, "early layers know what all images have in common")
    elif config.layer_decay is None:
        config = replace(config, layer_decay=1.0)
    options["mixup"] = options["mixup"] or 0.0
    size = 2
    while size < 64 and 8 * size * config.processes <= images:
        size *= 2
    batch = fill("batch_size", size, "at least four steps an epoch, at most 64")
    if batch * config.processes > images:
        raise UsageError(f"{images} images to learn from, fewer than a batch of {batch * config.processes}")
    per_epoch = images // (batch * config.processes)
    epochs = min(100, max(10, round(1600 / images**0.5)))
    why = "more for fewer images, from 10 to 100"
    if config.max_steps:
        epochs, why = -(-config.max_steps // per_epoch), f"{config.max_steps:,} steps"
    epochs = fill("epochs", epochs, why)
    lr = fill("lr", {"head": head.lr, "lora": 5e-4}.get(train, 1e-4), "AdamW; the head learns ten times as fast")
    usual: dict[str, Any] = {"weight_decay": 0.05, "warmup_epochs": 0.0, "workers": min(4, machine.cores)}
    usual |= {"precision": machine.precision, "threads": machine.threads}
    left: dict[str, Any] = {name: value for name, value in usual.items() if getattr(config, name) is None}
    config = replace(config, options=options, **left)
    every = config.monitor_every or max(1, epochs // 10)
    config = replace(config, monitor_every=every)
    shape: Any = {"epochs": epochs, "max_steps": config.max_steps, "batch_size": batch, "accumulate": 1, "lr": lr}
    return config, Schedule(**shape, clip=1.0, monitor_every=every, checkpoint_steps=config.checkpoint_steps), notes


def finer_map(encoder: Backbone, size: int, least_cells: int) -> tuple[Backbone, list[str]]:
    """The encoder with a map of as many cells a side, by dilation, where its own is coarser; and what was done."""
    if not least_cells or (stride := finer_stride(size, encoder.stride, least_cells)) is None:
        return encoder, []
    try:
        with torch.random.fork_rng(devices=[]):
            finer = build_backbone(**encoder.config | {"output_stride": stride, "pretrained": False})
    except UsageError as refusal:
        return encoder, [f"coarse maps, of a cell per {encoder.stride} pixels: {refusal}"]
    finer.load_state_dict(encoder.state_dict())
    finer.pretrained = encoder.pretrained
    return finer, [f"output-stride {stride}: maps of {size // stride}×{size // stride} cells, by dilation"]
