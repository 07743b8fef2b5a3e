"""From labelled images to answers about others."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glocal.api.opening import load
from glocal.errors import UsageError
from glocal.progress import shown_progress

if TYPE_CHECKING:
    from glocal.adaptation import Predictions


def finetune(
    encoder: str | Any = None,
    data: str | list[str] | Any = None,
    *,
    out: str | None = None,
    resume: str | None = None,
    head: str | None = None,
    train: Literal["head", "last", "lora", "all"] | None = None,
    layer_decay: float | None = None,
    mixup: float | None = None,
    class_weights: bool = False,
    labels: int | None = None,
    memory: int | None = None,
    names: str | None = None,
    text: str | None = None,
    hold_out: float = 0.2,
    split_by: str | None = None,
    image_size: int | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    seed: int = 0,
    accelerator: str = "auto",
    devices: int = 1,
    precision: Literal["bf16-mixed", "16-mixed", "32", "32-true"] | None = None,
    workers: int | None = None,
    threads: int | None = None,
    checkpoint_steps: int = 0,
    report: bool = True,
    quiet: bool = False,
    trust_code: bool = False,
) -> Path:
    """Teach an encoder classes, masks or keypoints, from labelled images.

    What is left at None is decided from the number of images, and said in the log and in config.yaml.

    Args:
        encoder: what `load` takes, or a Backbone.
        data: labelled images: a sub-folder for each class, a list with a column label, images/ and masks/, or
            images with joints.npy. Where there is a `val`, it is checked on that; else some images are held out. A
            `test` is not looked at.
        out: the folder for encoder and head; by default runs/finetune-BACKBONE-DATA-K.
        resume: such a folder to go on with; all else comes from its config.yaml, but for `workers` and `quiet`.
        head: "classify", "mtn" or "nearest_mean", "names", "codes", "segment" or "keypoints", or module:Class; by
            default what the data has, masks before labels, and these before keypoints.
        train: of the encoder nothing ("head"), its last quarter, products of rank 8 beside its weights ("lora"), or
            all.
        layer_decay: rate of each layer of the encoder, as a share of the rate of the layer above it.
        mixup: alpha of mix-up; 0 for none.
        class_weights: count each class alike, however many images it has.
        labels: learn from only so many of the labelled images, drawn by the seed.
        memory: keep so many images of each class, for classes that come later. With a fine-tuned folder as the encoder
            its classes are kept beside the new ones of `data`: 0 lets them be forgotten, very many keep all.
        names: of head "codes", a .txt file of all the names that there are, one a line; by default those of the data.
        text: of head "names", what reads captions and names: a run on texts, a folder with a table of word pieces'
            vectors (one .safetensors file) and their tokenizer.json, or http://127.0.0.1:8000/v1#MODEL, an endpoint
            that embeds texts.
        hold_out: share of the images to check on where there is no `val`; 0 to learn from all, and check on none.
        split_by: hold out whole groups by this column of the data's groups.csv or list: a patient, a video.
        image_size: by default the encoder's own.
        epochs: passes over the images.
        max_steps: stop after so many optimiser steps.
        batch_size: images per step and process.
        lr: peak learning rate of the encoder's last layer.
        weight_decay: on parameters of more than one dimension.
        seed: of everything random.
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: processes on this machine.
        precision: autocast dtype.
        workers: loader processes; the result does not depend on them.
        threads: of this process on the CPU.
        checkpoint_steps: checkpoint every so many steps, beside those at epochs and every five minutes.
        report: write report.html.
        quiet: print nothing.
        trust_code: import what the encoder's or the run's files name as module:attribute.

    Returns:
        The folder: `glocal.predict` takes it, and as an encoder so does all else.

    Raises:
        UsageError: for bad options or unusable data.
        TrainingStopped: on divergence or interruption; the run can be resumed.
    """
    from glocal.pipeline.finetune import continue_finetuning, start_finetuning
    from glocal.run import Run

    shared: dict[str, Any] = {"trust_code": trust_code, "quiet": quiet}
    if resume is not None:
        if encoder is not None:
            raise UsageError(f"--resume takes all but --workers from {resume}; leave the encoder out")
        return continue_finetuning(Run(resume), data, workers=workers, **shared)
    if encoder is None or data is None:
        raise UsageError("give an encoder and labelled images: glocal finetune runs/NAME --data labelled/ --out ft/")
    settings = {
        "head": head, "train": train, "layer_decay": layer_decay, "mixup": mixup, "class_weights": class_weights,
        "labels": labels, "memory": memory, "hold_out": hold_out, "split_by": split_by, "image_size": image_size,
        "epochs": epochs, "max_steps": max_steps, "batch_size": batch_size, "lr": lr, "weight_decay": weight_decay,
        "seed": seed, "accelerator": accelerator, "devices": devices, "precision": precision, "workers": workers,
        "threads": threads, "checkpoint_steps": checkpoint_steps, "report": report, "names": names, "text": text,
    }  # fmt: skip
    return start_finetuning(encoder, data, settings, out=out, **shared)


def predict(
    model: str,
    data: str | list[str],
    *,
    out: str | None = None,
    page: str | None = None,
    draw: str | None = None,
    names: str | None = None,
    memory: str | None = None,
    split: Literal["train", "val", "test", "all"] = "all",
    image_size: int | None = None,
    batch_size: int = 64,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    workers: int | None = None,
    trust_code: bool = False,
) -> Predictions | Path:
    """What a fine-tuned encoder says of every image.

    Where the images have labels, masks or keypoints, it also says how often it is right.

    Args:
        model: a folder that `finetune` made.
        data: images; several folders one after the other.
        out: a .csv file of classes and their probabilities or of keypoints, a folder for masks as PNG files, or a page
            ending in .html; in Python, leave out to get arrays.
        page: a page with pictures, beside `out`.
        draw: a folder for the images with what is said of them drawn on: keypoints, or masks in colours.
        names: of heads "names" and "codes", a .txt file of the names to choose from, one a line, also new ones.
        memory: of head "names", images with captions to look at in place of those that it learnt from.
        split: of data that has splits.
        image_size: by default what it was fine-tuned at.
        batch_size: images per forward pass.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps".
        precision: by default bf16 on a GPU that has instructions for it, else fp32.
        workers: loader processes; by default none on the CPU, elsewhere one per core.
        trust_code: as for `load`.

    Returns:
        What was written, or the predictions.

    Raises:
        UsageError: if there is no head, it is of another encoder, or no image can be read.
    """
    from glocal.adaptation import load_head
    from glocal.data import open_source
    from glocal.evaluation.extract import placed
    from glocal.pipeline.predict import predict_source, told
    from glocal.run import check_place

    for option, written in (("--out", out), ("--page", page)):
        if option == "--page" or not Path(written or "").is_dir():  # masks go into a folder
            check_place(option, written, names, memory, *([data] if isinstance(data, str) else data))
    loaded, _ = load_head(model, trust_code=trust_code)
    opened = load(model, image_size=image_size, trust_code=trust_code)
    settings: dict[str, Any] = {"image_size": image_size or opened.image_size, "batch_size": batch_size}
    settings |= {"workers": workers, "precision": precision}
    source = open_source(data, split=split)
    with placed(opened, device) as encoder, placed(loaded, device) as head, shown_progress() as progress:
        settings["progress"] = progress
        told(encoder, head, names, memory, **settings)
        return predict_source(encoder, head, source, out=out, page=page, draw=draw, **settings)
