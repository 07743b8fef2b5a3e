"""The Python functions behind the commands: same names, same arguments. Heavy imports happen inside them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glocal.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from glocal.backbones import Backbone
    from glocal.exporters.embed import Embeddings


def pretrain(
    data: Any = None,
    *,
    method: str = "vicregl",
    backbone: str = "resnet50",
    image_size: int = 224,
    out: str | None = None,
    resume: str | None = None,
    preset: str | None = None,
    epochs: int | None = None,
    max_steps: int | None = None,
    batch_size: int | None = None,
    accumulate: int = 1,
    seed: int = 0,
    pretrained: bool | str = False,
    stem: Literal["native", "cifar"] = "native",
    output_stride: int | None = None,
    drop_path: float = 0.0,
    optimizer: Literal["lars", "adamw", "sgd"] | None = None,
    lr: float | None = None,
    weight_decay: float | None = None,
    warmup_epochs: float | None = None,
    trust_coefficient: float | None = None,
    clip: float = 0.0,
    accelerator: str = "auto",
    devices: int = 1,
    num_nodes: int = 1,
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
    **options: Any,
) -> Path:
    """Pretrain an encoder on unlabelled images.

    What is left at None is decided from the data and the machine, and said in the log and in config.yaml.

    Args:
        data: folder, list file, `torchvision:NAME`, `parts`, or several of them; in Python also an array or a
            collection. Labels, where present, are only used to watch progress and for the final scores.
        method: see `glocal methods`.
        backbone: any timm name, see `glocal backbones`.
        image_size: side of the (large) crops, pixels.
        out: the run's directory; by default runs/METHOD-BACKBONE-DATA-K.
        resume: a run to continue; all else comes from its config.yaml, but for `workers`, `quiet`, and `data` that
            config.yaml cannot name.
        preset: the method's options as in its "paper", or widths for "small" data; each method lists its own.
        epochs: passes over the images.
        max_steps: stop after so many optimiser steps.
        batch_size: images per step and process.
        accumulate: micro-batches per step; batch statistics are then per micro-batch.
        seed: of everything random.
        pretrained: start from timm's released weights (true), or from a local weights file.
        stem: "cifar" gives a ResNet its 3×3 stride-1 stem without max-pooling.
        output_stride: of the feature map, by dilation (8, 16 or 32).
        drop_path: stochastic depth rate.
        optimizer: instead of the method's own.
        lr: peak learning rate.
        weight_decay: on parameters of more than one dimension.
        warmup_epochs: epochs of linear warm-up, at most a tenth of the run.
        trust_coefficient: LARS's η.
        clip: largest gradient norm; 0 for none.
        accelerator: "auto", "cpu", "cuda" or "mps".
        devices: processes on this machine (distributed data parallel); torchrun's own numbers under torchrun.
        num_nodes: machines.
        precision: autocast dtype.
        workers: loader processes; the result does not depend on them.
        threads: of this process on the CPU; kept in config.yaml, since sums round differently with another number.
        cache: keep the images, decoded and shrunk to what the views need, in $GLOCAL_CACHE or ~/.cache/glocal, so that
            later epochs decode nothing; by default where that fits. Kept in config.yaml: crops of shrunk images differ
            slightly.
        compile: train the encoder with torch.compile (whole images on one process); by default where a run is long and
            that is measured to be faster. Kept in config.yaml, which gives the same run again: sums round differently.
        monitor_every: epochs between two looks at kNN accuracy and rank.
        checkpoint_steps: checkpoint every so many steps, beside those at epochs and every five minutes.
        report: evaluate at the end against random initialisation and raw pixels, and write report.html.
        report_images: the report's scores look at no more than so many training and test images.
        quiet: print nothing.
        trust_code: import what the resumed run's config.yaml names as module:attribute.
        **options: the method's own options, see its documentation.

    Returns:
        The run's directory, holding the encoder.

    Raises:
        UsageError: for bad options or unusable data.
        TrainingStopped: on divergence, collapse or interruption; the run can be looked at or resumed.
    """
    from glocal.config import PretrainConfig
    from glocal.data import describe_spec, open_source
    from glocal.pipeline import continue_run, start_run, stored_config
    from glocal.run import Run

    config = PretrainConfig(
        data=describe_spec(data),
        method=method,
        backbone=backbone,
        image_size=image_size,
        preset=preset,
        epochs=epochs,
        max_steps=max_steps,
        batch_size=batch_size,
        accumulate=accumulate,
        seed=seed,
        pretrained=pretrained,
        stem=stem,
        output_stride=output_stride,
        drop_path=drop_path,
        optimizer=optimizer,
        lr=lr,
        weight_decay=weight_decay,
        warmup_epochs=warmup_epochs,
        trust_coefficient=trust_coefficient,
        clip=clip,
        accelerator=accelerator,
        devices=devices,
        num_nodes=num_nodes,
        precision=precision,
        workers=workers,
        threads=threads,
        cache=cache,
        compile=compile,
        monitor_every=monitor_every,
        checkpoint_steps=checkpoint_steps,
        report=report,
        report_images=report_images,
        options=options,
    )
    if resume is not None:
        run = Run.open(resume)
        if more := sorted(config.given().keys() - {"workers", "data"}):
            raise UsageError(f"--resume takes {more[0]} from {run.config_file}; leave it out, or begin another run")
        config = stored_config(run, workers=workers, trust_code=trust_code)
        images = config.data if data is None else data
        if images is None:
            raise UsageError(f"the images of {run} were given in Python: glocal.pretrain(images, resume={str(run)!r})")
        return continue_run(run, config, open_source(images), quiet=quiet)
    if data is None or (isinstance(data, list) and not data):
        raise UsageError("no data given; name a folder of images, for example: glocal pretrain photos/")
    return start_run(config, open_source(data), out=out, quiet=quiet)


def compare(
    methods: list[str],
    *,
    data: str | list[str],
    budget: str = "50ep",
    seeds: int = 3,
    evaluate_on: str | None = None,
    tasks: list[str] | None = None,
    limit: int | None = None,
    backbone: str = "resnet18",
    image_size: int = 96,
    batch_size: int | None = None,
    pretrained: bool | str = False,
    stem: Literal["native", "cifar"] = "native",
    output_stride: int | None = None,
    workers: int | None = None,
    threads: int | None = None,
    out: str | None = None,
) -> Path:
    """Methods side by side: the same data, backbone and budget, several seeds, one table and one figure.

    Each run is a process of its own, so that its memory can be measured. What was finished is kept: the same command
    goes on where it was interrupted, and takes further methods or seeds.

    Args:
        methods: names, each with options if wanted: "vicregl", "vicregl:alpha=0.75,matches=[10,4]".
        data: images to pretrain on, as for `pretrain`.
        budget: of each run: time ("90s", "20m", "2h", after measuring each method's speed), passes over the data
            ("50ep") or images ("1e6img", each seen by all of its views).
        seeds: runs of each method.
        evaluate_on: labelled images, by default `data`.
        tasks: see `glocal tasks`; by default all quick ones that the data allows.
        limit: evaluate on no more than so many training and test images.
        backbone: of all.
        image_size: side of the (large) crops, pixels.
        batch_size: images per step; decided from the data by default.
        pretrained: start from released or local weights.
        stem: "cifar" for images of about 32 px.
        output_stride: of the feature map; by default fine enough for the method that needs the finest.
        workers: loader processes.
        threads: of each run on the CPU.
        out: the comparison's directory, by default comparisons/DATA-BUDGET.

    Returns:
        The directory, with comparison.md, comparison.png and comparison.json.

    Raises:
        UsageError: for bad options, or if `out` holds another comparison.
    """
    from glocal.comparison import Entry, compare_methods
    from glocal.comparison.compare import Protocol
    from glocal.evaluation import possible_tasks

    images = [data] if isinstance(data, str) else list(data)
    if evaluate_on is None and len(images) > 1:
        raise UsageError("several data sets to pretrain on; say which to score on with --evaluate-on")
    labelled = evaluate_on or images[0]
    names = ("backbone", "image_size", "batch_size", "pretrained", "stem", "output_stride", "workers", "threads")
    given = locals()
    protocol = Protocol(
        data=images,
        evaluate_on=labelled,
        budget=budget,
        seeds=seeds,
        tasks=tasks or possible_tasks(labelled),
        limit=limit,
        settings={name: given[name] for name in names},
    )
    folder = Path(out or Path("comparisons") / f"{Path(images[0]).name}-{budget}".replace(":", "-"))
    return compare_methods([Entry.parse(text) for text in methods], protocol, folder)


def load(encoder: str, *, image_size: int | None = None, trust_code: bool = False) -> Backbone:
    """An encoder from a run, an exported folder or file, or timm.

    Args:
        encoder: a run's directory, encoder.safetensors (or its folder), `timm:NAME`, or `timm:NAME:random`.
        image_size: for vision transformers built for one size.
        trust_code: import the module:function of an unregistered backbone, which the encoder's file names.

    Returns:
        A Backbone in evaluation mode: (B, 3, h, w) normalised pixels -> Features(pooled, dense, ...).

    Raises:
        UsageError: if there is no encoder there.
    """
    from glocal.backbones import load_encoder

    return load_encoder(encoder, image_size=image_size, trust_code=trust_code).eval()


def load_method(run: str | Path, *, trust_code: bool = False) -> nn.Module:
    """The whole method of a run, heads and teacher included, as its last checkpoint has it: for research.

    Args:
        run: the directory of a run, which may be unfinished.
        trust_code: import what its config.yaml names as module:attribute.

    Returns:
        The method in evaluation mode, on the CPU; its `encoder` is what `load` gives of a finished run.

    Raises:
        UsageError: if it is no run, or has no checkpoint, or one that does not fit its config.yaml.
    """
    from glocal.pipeline import trained_method
    from glocal.run import Run

    return trained_method(Run.open(run), trust_code=trust_code)


def evaluate(
    encoder: str | Backbone,
    data: str,
    *,
    tasks: list[str] | None = None,
    image_size: int | None = None,
    batch_size: int = 128,
    workers: int = 0,
    seed: int = 0,
    limit: int | None = None,
    task_options: dict[str, dict[str, Any]] | None = None,
    baselines: bool = False,
    json: str | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Measure a frozen encoder as a global and as a dense feature.

    Args:
        encoder: what `load` takes, or a Backbone.
        data: labelled images; train and test splits are kept apart (a stratified fifth is held out where there are
            none).
        tasks: see `glocal tasks`; by default all that the data allows.
        image_size: by default the encoder's own.
        batch_size: images per forward pass.
        workers: loader processes.
        seed: of splits and crops.
        limit: look at no more than so many training and test images.
        task_options: by task: '{"knn": {"k": 20}, "robustness": {"images": 200}}'.
        baselines: also score the same architecture at random initialisation, and raw pixels.
        json: a file to write the scores to.
        trust_code: as for `load`.

    Returns:
        {"knn": {"top1": ...}, "linear": {"top1": ...}, "segment": {"miou": ...}, "correspond": {"within_1_cell": ...},
        ...} for the tasks asked for, and "meta". With `baselines`, also "random" and "pixels", each the same again.

    Raises:
        UsageError: for an unknown task, or one the data cannot serve.
    """
    from glocal.pipeline.conclude import score, score_with_baselines
    from glocal.run import write_json

    model = load(encoder, image_size=image_size, trust_code=trust_code) if isinstance(encoder, str) else encoder
    settings: dict[str, Any] = {
        "tasks": tasks,
        "image_size": image_size,
        "batch_size": batch_size,
        "workers": workers,
        "seed": seed,
        "limit": limit,
        "options": task_options,
    }
    result = score_with_baselines(model, data, **settings) if baselines else score(model, data, **settings)
    if json is not None:
        write_json(Path(json), result)
    return result


def embed(
    encoder: str | Backbone,
    data: str,
    *,
    out: str | None = None,
    dense: bool = False,
    image_size: int | None = None,
    batch_size: int = 128,
    workers: int = 0,
    trust_code: bool = False,
) -> Embeddings | Path:
    """The features of every image.

    Args:
        encoder: what `load` takes, or a Backbone.
        data: images.
        out: a .parquet or .npz file; in Python, leave out to get arrays.
        dense: also the feature maps.
        image_size: by default the encoder's own.
        batch_size: images per forward pass.
        workers: loader processes.
        trust_code: as for `load`.

    Returns:
        The file, or the embeddings.
    """
    from glocal.data import open_source
    from glocal.exporters.embed import embed_source

    model = load(encoder, image_size=image_size, trust_code=trust_code) if isinstance(encoder, str) else encoder
    settings: dict[str, Any] = {"image_size": image_size, "dense": dense, "batch_size": batch_size, "workers": workers}
    skipped: list[tuple[str, str]] = []
    result = embed_source(model, open_source(data), out=out, skipped=skipped, **settings)
    if skipped:
        print(
            f"{len(skipped)} images could not be read and were skipped, the first being {skipped[0][0]}",
            file=sys.stderr,
        )
    return result


def export(
    encoder: str | Backbone,
    *,
    format: str = "timm",
    out: str,
    image_size: int | None = None,
    trust_code: bool = False,
) -> Path:
    """Hand an encoder over.

    Args:
        encoder: what `load` takes, or a Backbone.
        format: "timm", a folder that timm.create_model('local-dir:OUT', pretrained=True) opens; "onnx" or
            "torch-export", a file with outputs `pooled` and `dense`; "safetensors", glocal's own.
        out: the folder or file to write.
        image_size: by default the encoder's own.
        trust_code: as for `load`.

    Returns:
        What was written.
    """
    from glocal.exporters import export_encoder
    from glocal.exporters.card import encoder_card

    model = load(encoder, image_size=image_size, trust_code=trust_code) if isinstance(encoder, str) else encoder
    about = encoder_card(encoder) if isinstance(encoder, str) else None
    return export_encoder(model, format=format, out=out, image_size=image_size, about=about)
