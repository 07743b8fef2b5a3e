"""What was left open is decided here: `resolve`, a pure function, and the rules it is made of."""

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

from glocal.config import PretrainConfig
from glocal.data.source import ImageSource
from glocal.data.stream import Stream
from glocal.devices import best_accelerator, cores
from glocal.errors import UsageError
from glocal.methods import Optimization, method_class, method_options, resolve_options
from glocal.training.rates import LAYER_DECAY, Decisions, decide_optimization
from glocal.training.schedule import Schedule

SMALL = 200_000
"""Below this many images the published widths and learning rates do not fit; preset "small" applies."""
FORGETTING = 5.0
"""By how many e-foldings a teacher should have forgotten the weights it began with."""

Precision = Literal["bf16-mixed", "16-mixed", "32-true"]


@dataclass(frozen=True)
class Machine:
    """What is known before anything is decided: of the machine, and what was measured on it for this run.

    Attributes:
        cores, threads: that this process may use, and that PyTorch would.
        precision, cuda: that it is fast in, and whether that is an NVIDIA GPU.
        family: of the backbone, see `Backbone.family`; None: not measured.
        stride: of the backbone as it is built by default, pixels; None: not measured.
        finer_refused: why it cannot be built with a finer stride; "" where it can.
        published: the method's own optimisation of this backbone; None: not built yet.
        cache, compile, small_maps: (what pays, why); None: not measured.
    """

    cores: int
    threads: int
    precision: Precision
    family: str | None = None
    stride: int | None = None
    finer_refused: str = ""
    published: Optimization | None = None
    cache: tuple[bool, str] | None = None
    compile: tuple[bool, str] | None = None
    small_maps: tuple[list[int], str] | None = None
    cuda: bool = False


@dataclass(frozen=True)
class Resolved:
    """A configuration in which nothing is left open that is known yet.

    Attributes:
        config: complete; its `options` are all of the method's.
        steps: optimiser steps of the run.
        optimization: the method's own, adapted; None before the machine says what is published.
        schedule: lengths and sizes for the loop; None, too.
    """

    config: PretrainConfig
    steps: int
    optimization: Optimization | None = None
    schedule: Schedule | None = None


def resolve(config: PretrainConfig, source: ImageSource, machine: Machine) -> tuple[Resolved, list[str]]:
    """Decide what was left open, as far as it can be from what is known; what was given stays as it is.

    Pure: nothing is measured here. Called with what was decided, it decides the same.

    Args:
        config: as asked for.
        source: the images; only their number counts.
        machine: what is known of it. What needs a measurement that is missing stays open.

    Returns:
        The complete configuration, and a sentence for each decision.

    Raises:
        UsageError: for options that the method does not have.
    """
    decisions = Decisions(config)
    cls, processes = method_class(config.method), config.processes
    images = _planned(config, source, cls) if isinstance(source, Stream) else len(source)
    if (clip := method_options(cls).get("frames")) is not None:  # a sample has so many of them
        images //= max(1, config.options.get("frames", clip.default))
    if isinstance(source, Stream) and source.once:
        decisions.fill("workers", 0, "this process alone reads an iterator")
    _decide_sizes(decisions, images, machine)
    given = {**config.options, "image_size": config.image_size}
    if config.patch_drop is not None and "patch_drop" in method_options(cls):
        given["patch_drop"] = config.patch_drop
    preset, batch = decisions.config.preset or "", decisions.config.batch_size * processes
    options = resolve_options(cls, preset, batch, given, machine.family)
    published = resolve_options(cls, "paper", batch, given, machine.family)
    decisions.fill("drop_path", options.pop("drop_path", 0.0))
    decisions.fill("patch_drop", options.pop("patch_drop", 0.0))
    if config.native:
        decisions.fill("tokens", 1024, "patches of a sequence")
        by_kernel = machine.cuda and decisions.config.precision != "32-true"
        how = "a kernel for rows of different lengths" if by_kernel else "one call for all photographs of a length"
        decisions.notes.append(f"native {config.native}: attention within each photograph, by {how}")
    decisions.notes += [
        f"{name.replace('_', '-')} {value}: preset {preset}; in the paper {published[name]}"
        for name, value in options.items()
        if value != published[name]
    ]
    steps = _steps(decisions.config, images)
    _decide_gentleness(decisions)
    name = cls.teacher_momentum
    if name is not None and name not in config.options and not decisions.config.gentle:
        options[name] = _momentum(options[name], steps, decisions.notes)
    del options["image_size"]
    decisions.config = replace(decisions.config, options=options)
    if machine.stride is not None:
        _decide_stride(decisions, machine, cls.least_cells)
    if decisions.config.epochs <= 2:
        decisions.fill("cache", False)
    for name in ("cache", "compile", "small_maps"):
        if (measured := getattr(machine, name)) is not None:
            decisions.fill(name, *measured)
    if machine.published is None:
        return Resolved(decisions.config, steps), decisions.notes
    optimization = decide_optimization(decisions, machine.published, steps, processes)
    done = decisions.config
    schedule = Schedule(
        epochs=done.epochs,
        max_steps=done.max_steps,
        batch_size=done.batch_size,
        accumulate=done.accumulate,
        lr=done.lr,
        clip=done.clip,
        monitor_every=done.monitor_every,
        checkpoint_steps=done.checkpoint_steps,
        patches=tuple(done.patches or ()),
    )
    return Resolved(done, steps, optimization, schedule), decisions.notes


def _decide_gentleness(decisions: Decisions) -> None:
    """Whether to go on gently, and under a guard: from weights that are worth it."""
    begun = bool(decisions.config.pretrained)
    decisions.fill("gentle", begun, "it starts from weights that see already" if begun else "")
    if decisions.config.gentle:
        decisions.fill("layer_decay", LAYER_DECAY, "share of the rate that the layer below gets")
    decisions.fill("layer_decay", 1.0)
    decisions.fill("guard", begun, "the best encoder seen is handed over, the start included" if begun else "")


def _planned(config: PretrainConfig, stream: Stream, cls: Any) -> int:
    """Images that all steps take of a stream; `UsageError` for what cannot be done with one."""
    refused = {
        "a schedule needs its length: give --max-steps, or, to compare methods, a folder": config.max_steps is None,
        "it is gone through once: leave out --epochs and --cache": config.epochs not in (None, 1) or config.cache,
        f"{cls.title} looks at all images before an epoch: take another --method": hasattr(cls, "before_epoch"),
        "this process alone reads an iterator: leave out --workers": stream.once and config.workers,
    }
    for why in (why for why, is_so in refused.items() if is_so):
        raise UsageError(f"{stream.name} is a stream: {why}")
    return (config.max_steps or 0) * (config.batch_size or 256) * config.processes


def _decide_sizes(decisions: Decisions, images: int, machine: Machine) -> None:
    """Preset, batch size, epochs and machine settings, from the number of images and the machine."""
    config = decisions.config
    few = images < SMALL
    decisions.fill("preset", "small" if few else "paper", f"{images:,} images ({'under' if few else 'over'} {SMALL:,})")
    processes = config.processes
    fitting = 2 ** max(1, int(math.log2(max(2, images // (8 * processes)))))
    decisions.fill("batch_size", min(256, fitting), "at least eight steps an epoch, at most 256")
    scaled = round(100 * math.sqrt(1_281_167 / max(1, images)))
    epochs, why = min(800, max(100, scaled)), "100 at ImageNet's size, more for less, at most 800"
    if config.max_steps:
        enough = -(-config.max_steps // max(1, images // (decisions.config.batch_size * processes)))
        epochs, why = min((epochs, why), (enough, f"{config.max_steps:,} steps"))
    decisions.fill("epochs", epochs, why)
    decisions.fill("monitor_every", max(1, decisions.config.epochs // 20), "a twentieth of the run")
    cores = machine.cores // config.devices
    decisions.fill("workers", max(1, cores - 1 if machine.cuda else min(8, cores)), f"{machine.cores} cores")
    decisions.fill("precision", machine.precision, "what this hardware does fast")
    decisions.fill("threads", machine.threads)


def _steps(config: Any, images: int) -> int:
    """Optimiser steps of the whole run."""
    steps = config.epochs * (images // (config.batch_size * config.processes))
    return min(steps, config.max_steps or steps)


def finer_stride(image_size: int, stride: int, least_cells: int) -> int | None:
    """An output stride that gives the large crop's map `least_cells` a side, where it has fewer.

    Methods that match cells need about 6×6 (a ResNet at 96 px has 3×3).
    """
    if image_size / stride >= least_cells:
        return None
    possible = [finer for finer in (16, 8) if finer < stride]
    return next((finer for finer in possible if image_size / finer >= least_cells), possible[-1] if possible else None)


def _decide_stride(decisions: Decisions, machine: Machine, least_cells: int) -> None:
    config = decisions.config
    assert machine.stride is not None
    finer = finer_stride(config.image_size, machine.stride, least_cells)
    if finer is None or config.output_stride is not None:
        return
    if machine.finer_refused:
        decisions.notes.append(f"coarse maps: {machine.finer_refused}")
        return
    side = -(-config.image_size // finer)
    decisions.fill("output_stride", finer, f"maps of {side}×{side} cells to match")


def _momentum(published: float, steps: int, notes: list[str]) -> float:
    """A teacher's momentum at the start, where a run is too short for the method's.

    On its way to 1 it leaves exp(−(1 − m)·steps/2) of the initial weights in the teacher: of .99, 37% after 200 steps.
    BYOL's own table has 68.4% at .9, 72.5% at .99 and 18.8% with a teacher that stays random (Grill et al., table 5a).
    """
    most = round(max(0.9, 1 - 2 * FORGETTING / max(1, steps)), 4)
    if published <= most:
        return published
    notes.append(f"momentum {most}: {steps:,} steps, in which a teacher of {published} hardly moves")
    return most


def this_machine(accelerator: str) -> Machine:
    """What is known of this machine at once."""
    cuda = accelerator in ("cuda", "gpu") or (accelerator == "auto" and torch.cuda.is_available())
    return Machine(cores(), torch.get_num_threads(), _fast_precision(accelerator), cuda=cuda)


def _fast_precision(accelerator: str) -> Precision:
    """What has instructions here: bfloat16 that is emulated is two to five times slower than float32."""
    accelerator = best_accelerator() if accelerator == "auto" else accelerator
    if accelerator in ("cuda", "gpu"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    if accelerator == "mps":
        return "32-true"
    asked = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")  # not all versions of PyTorch have them
    return "bf16-mixed" if any(getattr(torch.cpu, name, lambda: False)() for name in asked) else "32-true"
