"""Encoders made smaller, or fitted to photographs, by masks on their weights."""

from pathlib import Path
from typing import Any, Literal

from glocal.errors import UsageError


def adapt(
    encoder: str | None = None,
    data: str | list[str] | Any = None,
    *,
    by: Literal["mask", "prune"] = "mask",
    method: str = "vicregl",
    keep: float = 1.0,
    rounds: int = 1,
    image_size: int | None = None,
    out: str | None = None,
    resume: str | None = None,
    preset: str | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    seed: int = 0,
    lr: float | None = None,
    warmup_epochs: float | None = None,
    gentle: bool | None = None,
    guard: bool | None = None,
    accelerator: str = "auto",
    devices: int = 1,
    precision: Literal["bf16-mixed", "16-mixed", "32", "32-true"] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    cache: bool | None = None,
    compile: bool | None = None,
    monitor_every: int | None = None,
    checkpoint_steps: int = 0,
    report: bool = True,
    report_images: int = 2000,
    quiet: bool = False,
    trust_code: bool = False,
    accept_changed_data: bool = False,
    **options: Any,
) -> Path:
    """Mask an encoder's weights to fit it to photographs, or prune it.

    The weights of linear layers and convolutions are masked; normalisations and biases are not. The run's encoder is
    an ordinary one, with zeros where the mask has them. What is left at None is decided as for `pretrain`.

    Args:
        encoder: what `load` takes; the base.
        data: photographs, as for `pretrain`.
        by: "mask" learns one bit for each weight, which stay as they are: the run's mask.npz, a thirty-second of the
            size, is all that is to be stored beside the base. "prune" keeps the largest weights and trains them.
        method: what the mask, or what is left of the weights, is trained by; see `glocal methods`.
        keep: the share of the weights that pruning keeps.
        rounds: of pruning; each leaves out the same share of what is left, and begins again with the base's weights.
        image_size: side of the (large) crops, pixels; by default the encoder's own.
        out: the run's directory; by default runs/METHOD-BACKBONE-DATA-K.
        resume: a run to go on with; all else comes from its config.yaml, but for `workers` and `quiet`.
        preset: the method's options for "small" data or as in its "paper".
        epochs: passes over the photographs, of each round; by default 150 for all of them, at least 10.
        max_steps: stop, each round, after so many optimiser steps.
        batch_size: images per step and process.
        seed: of everything random.
        lr: peak learning rate, of masks that of their scores.
        warmup_epochs: epochs of linear warm-up.
        gentle: of pruning, whether what is left of the weights is trained with care, as for `pretrain`; by default not.
        guard: hand over the best that was seen during training, the start included, as for `pretrain`.
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: processes on this machine.
        precision: autocast dtype.
        workers: loader processes; the result does not depend on them.
        threads: of this process on the CPU.
        cache: keep decoded images for later epochs, as for `pretrain`.
        compile: train the encoder with torch.compile, as for `pretrain`.
        monitor_every: epochs between two looks at kNN accuracy and rank.
        checkpoint_steps: checkpoint every so many steps, beside those at epochs and every five minutes.
        report: evaluate at the end against the base and raw pixels, and each round of pruning, and write report.html.
        report_images: scores look at no more than so many training and test images.
        quiet: print nothing.
        trust_code: import what files name as module:attribute.
        accept_changed_data: resume though the images are no longer what they were.
        **options: the method's own options, see its documentation.

    Returns:
        The run's directory, holding the encoder, and the mask as mask.npz.

    Raises:
        UsageError: for bad options, unusable data, or an encoder without weights to mask.
        TrainingStopped: on divergence, collapse or interruption; the run can be resumed.
    """
    from glocal.pipeline.adapt import continue_adapting, start_adapting
    from glocal.plugins import consent
    from glocal.run import Run

    shared: dict[str, Any] = {"trust_code": trust_code, "quiet": quiet}
    with consent(trust_code):
        if resume is not None:
            if encoder is not None:
                raise UsageError(f"--resume takes all but --workers from {resume}; leave the encoder out")
            shared |= {"workers": workers, "accept_changed_data": accept_changed_data}
            return continue_adapting(Run(resume), data, **shared)
        if encoder is None or data is None:
            raise UsageError("give an encoder and photographs: glocal adapt runs/NAME photos/ --by mask --out masked/")
        settings = {
            "by": by, "method": method, "keep": keep, "prune_rounds": rounds, "image_size": image_size,
            "preset": preset, "epochs": epochs, "max_steps": max_steps, "batch_size": batch_size, "seed": seed,
            "lr": lr, "warmup_epochs": warmup_epochs, "gentle": gentle, "guard": guard, "accelerator": accelerator,
            "devices": devices, "precision": precision, "workers": workers, "threads": threads, "cache": cache,
            "compile": compile, "monitor_every": monitor_every, "checkpoint_steps": checkpoint_steps,
            "report": report, "report_images": report_images, "options": options,
        }  # fmt: skip
        return start_adapting(encoder, data, settings, out=out, **shared)
