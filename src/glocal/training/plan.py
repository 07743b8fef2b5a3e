"""From what a person asked to a complete configuration: what was left open is decided here, and each decision said."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from glocal.methods import Optimization

SMALL = 200_000
"""Below this many images the published widths and learning rates do not fit; preset "small" applies."""
SHORT_RUN = 30_000
"""Steps under which published optimisers hardly move the weights."""
SHORT_TRUST = 0.02
"""LARS's η in short runs."""
FORGETTING = 5.0
"""By how many e-foldings a teacher should have forgotten the weights it began with."""


@dataclass
class Plan:
    """A configuration being completed, and the sentences that say how."""

    config: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    def decide(self, name: str, value: Any, why: str) -> None:
        """Fill an option that was left open."""
        if self.config[name] is None:
            self.config[name] = value
            self.notes.append(f"{name.replace('_', '-')} {value}: {why}")


def decide_sizes(plan: Plan, images: int, processes: int) -> None:
    """Preset, batch size, epochs and machine settings, from the number of images and the machine."""
    config = plan.config
    plan.decide(
        "preset",
        "small" if images < SMALL else "paper",
        f"{images:,} images ({'under' if images < SMALL else 'over'} {SMALL:,})",
    )
    fitting = 2 ** max(1, int(math.log2(max(2, images // (8 * processes)))))
    plan.decide("batch_size", min(256, fitting), "at least eight steps an epoch, at most 256")
    scaled = round(100 * math.sqrt(1_281_167 / images))
    plan.decide("epochs", min(800, max(100, scaled)), "100 at ImageNet's size, more for less, at most 800")
    plan.decide("monitor_every", max(1, config["epochs"] // 20), "a twentieth of the run")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    plan.decide("workers", min(8, max(1, cores // config["devices"])), f"{cores} cores")
    plan.decide(
        "precision", "bf16-mixed" if fast_bf16(config["accelerator"]) else "32-true", "what this hardware does fast"
    )


def finer_stride(plan: Plan, stride: int, least_cells: int) -> int | None:
    """An output stride that gives the large crop's map `least_cells` a side, where it has fewer and none was asked for.

    Methods that match cells need about 6×6 (a ResNet at 96 px has 3×3).
    """
    size, asked = plan.config["image_size"], plan.config["output_stride"]
    if asked is not None or size / stride >= least_cells:
        return None
    possible = [finer for finer in (16, 8) if finer < stride]
    return next((finer for finer in possible if size / finer >= least_cells), possible[-1] if possible else None)


def decide_momentum(plan: Plan, steps: int) -> None:
    """A teacher's momentum at the start, a method's option of that name, where a run is too short for the method's.

    On its way to 1 it leaves exp(−(1 − m)·steps/2) of the initial weights in the teacher: of .99, 37% after 200 steps.
    BYOL's own table has 68.4% at .9, 72.5% at .99 and 18.8% with a teacher that stays random (Grill et al., table 5a).
    """
    published = plan.config.get("momentum")
    most = round(max(0.9, 1 - 2 * FORGETTING / max(1, steps)), 4)
    if published is not None and published > most:
        plan.config["momentum"] = most
        plan.notes.append(f"momentum {most}: {steps:,} steps, in which a teacher of {published} hardly moves")


def decide_optimization(plan: Plan, spec: Optimization, steps: int, processes: int) -> Optimization:
    """The method's own optimisation, adapted to short runs, under what the person set.

    LARS at its published rates changes each weight tensor by about η·lr = 1e-4 of its norm a step: made for 10^5 steps.
    A run of a few thousand takes η .02, lr .3 and weight decay 1e-4, in the order of solo-learn's recipes for CIFAR,
    which cap the adapted rate in place of scaling it. Parameters of one dimension keep their share of the rate: without
    adaptation it goes with the size of the loss. Momentum is for all: what a paper exempts had 10^3 steps an epoch.
    AdamW's rate goes with the root of the batch (Malladi et al., NeurIPS 2022, arXiv:2205.10287) from the 1024 that its
    recipes were published for: in proportion to it, a small batch would hardly move the weights in so few steps.
    """
    config = plan.config
    short = steps < SHORT_RUN
    if short and spec.optimizer == "sgd" and config["lr"] is None:
        plan.decide("optimizer", "adamw", f"SGD at the paper's rate would hardly move the weights in {steps:,} steps")
    plan.decide("optimizer", spec.optimizer, "the method's paper")
    if config["optimizer"] != spec.optimizer:
        lr, weight_decay = {"adamw": (5e-4, 0.05), "lars": (0.3, 1e-4), "sgd": (0.05, 1e-4)}[config["optimizer"]]
        spec = replace(spec, optimizer=config["optimizer"], lr=lr, weight_decay=weight_decay, final_weight_decay=None)
    if short:
        spec = replace(spec, no_momentum=())
    # a trust_coefficient of .02 stands in the config.yaml of such a run, which must give the same run again
    if short and spec.optimizer == "lars" and config["trust_coefficient"] in (None, SHORT_TRUST):
        spec = replace(spec, lr=0.3, weight_decay=1e-4, trust_coefficient=SHORT_TRUST)
        plan.notes.append(f"LARS for short runs: only {steps:,} steps, and the paper's rates are made for 10^5")
    batch = config["batch_size"] * processes
    by_root = short and spec.optimizer == "adamw"
    share, said = (math.sqrt(1024 * batch), f"1024/256 × √({batch}/1024)") if by_root else (batch, f"{batch}/256")
    plan.decide("lr", spec.lr * share / 256, f"{spec.lr:g} × {said}")
    for name in ("weight_decay", "warmup_epochs", "trust_coefficient"):
        plan.decide(name, getattr(spec, name), "goes with the optimizer")
    if config["weight_decay"] != spec.weight_decay:  # the person's own stays where it was set
        spec = replace(spec, final_weight_decay=None)
    return replace(spec, **{name: config[name] for name in ("weight_decay", "warmup_epochs", "trust_coefficient")})


def fast_bf16(accelerator: str) -> bool:
    """Whether bfloat16 autocast is worth it here."""
    if accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available()):
        return torch.cuda.is_bf16_supported()
    return accelerator in ("auto", "cpu") and torch.ops.mkldnn._is_mkldnn_bf16_supported()
