"""Training: one run, or several side by side."""

from pathlib import Path
from typing import Any, Literal

from glocal.errors import UsageError


def pretrain(
    data: str | list[str] | Any = None,
    *,
    method: str = "vicregl",
    backbone: str | None = None,
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
    gentle: bool | None = None,
    layer_decay: float | None = None,
    lora: int = 0,
    guard: bool | None = None,
    stem: Literal["native", "cifar"] = "native",
    output_stride: int | None = None,
    drop_path: float | None = None,
    native: str | None = None,
    tokens: int | None = None,
    patch_drop: float | None = None,
    patches: tuple[int, ...] | None = None,
    recompute: bool = False,
    fps: float | None = None,
    max_gap: str | None = None,
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
    small_maps: list[int] | None = None,
    deterministic: bool = False,
    monitor_every: int | None = None,
    checkpoint_steps: int = 0,
    report: bool = True,
    report_images: int = 2000,
    quiet: bool = False,
    trust_code: bool = False,
    accept_changed_data: bool = False,
    **options: Any,
) -> Path:
    """Pretrain an encoder on unlabelled images.

    What is left at None is decided from the data and the machine, and said in the log and in config.yaml.

    Args:
        data: folder, list file, `torchvision:NAME`, `parts`, or several of them; in Python also an array or a
            collection. For one pass of `max_steps`, a folder that may grow, `stream:PATH`; in Python any iterable.
            Labels, where present, are only used to watch progress, by a `guard`, and for the final scores.
        method: see `glocal methods`.
        backbone: any timm name, see `glocal backbones`; by default resnet50, or the method's own network.
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
        pretrained: start from timm's released weights (true, or the name of others), or from those of a run or of a
            local file (.safetensors, .pth). Such a run is `gentle` and has a `guard`.
        gentle: change weights that see already with care: AdamW at a tenth of the usual rate, less in each layer
            below, after a longer warm-up; for the first 30% of the run the heads learn alone.
        layer_decay: rate of each layer of the encoder, as a share of the rate of the layer above it.
        lora: train, beside each of the encoder's matrices, a product of this rank in place of the matrix (0: not); it
            is added in the end.
        guard: hand over the best encoder that was seen during training, the start included, by scores on a sample of
            the training images (with their labels or masks, where they have such), and stop where they fall below the
            start's at two looks in a row.
        stem: "cifar" gives a ResNet its 3×3 stride-1 stem without max-pooling.
        output_stride: of the feature map, by dilation (8, 16 or 32).
        drop_path: stochastic depth rate; by default the paper's in preset "paper", else 0.
        native: photographs in their own shapes, packed into sequences: the least and the most pixels that a side would
            have were they square, "64-256"; each view's own is drawn between them. For networks and methods that can.
        tokens: length of such sequences, 1024 by default; a photograph with more patches is shrunk to fit.
        patch_drop: share of a photograph's patches that the network does not see, drawn anew for each; by default none,
            for MSN what its preset says.
        patches: of a FlexiViT, sides in pixels of patches, one of which is drawn at each step, for teachers too. The
            middle one is the encoder's own, by which it is watched and scored.
        recompute: keep what enters each block of the encoder only, and compute the rest again for gradients: a third
            more work, in much less memory.
        fps: read the data as videos: films, folders of frames, a list with the column `video`. So many frames a second
            are taken of films, and were taken where frames say no times.
        max_gap: of videos, how far apart in time the views of a sample may be, "2s": every other view is of a frame
            drawn anew from around; by default all views are of one frame.
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
        small_maps: on a CPU, convolutions whose output map has no more cells than this are made of matrix products:
            the gradient of their weights up to the first number, all else up to the second; by default measured, once
            for a machine. Kept in config.yaml, too.
        deterministic: on CUDA, take only algorithms that always sum in the same order, which are slower: the same run
            again, or resumed, is then the same bit for bit. On the CPU it is without.
        monitor_every: epochs between two looks at kNN accuracy and rank.
        checkpoint_steps: checkpoint every so many steps, beside those at epochs and every five minutes.
        report: evaluate at the end against the weights it started from and raw pixels, and write report.html.
        report_images: the report's scores look at no more than so many training and test images.
        quiet: print nothing.
        trust_code: import what files name as module:attribute: a resumed run's config.yaml, a teacher's encoder.json.
        accept_changed_data: resume though the images, their order, sizes or labels are no longer what they were.
        **options: the method's own options, see its documentation.

    Returns:
        The run's directory, holding the encoder.

    Raises:
        UsageError: for bad options or unusable data.
        TrainingStopped: on divergence, collapse or interruption; the run can be looked at or resumed.
    """
    from glocal.config import PretrainConfig
    from glocal.data import describe_spec
    from glocal.data.clips import as_clips
    from glocal.methods import method_class
    from glocal.pipeline import continue_run, start_run
    from glocal.plugins import consent
    from glocal.run import Run

    if native is not None and image_size != 224:
        raise UsageError(f"--native {native} says how large the crops are: leave out --image-size {image_size}")
    if native is not None:  # what is not packed, as at the looks during training, is a square of the largest area
        largest = PretrainConfig(native=native).native_sides[1]
        from glocal.backbones.navit import PATCH  # which needs timm

        image_size = PATCH * max(2, round(largest / PATCH))
    of_clips = fps is not None or max_gap is not None or (resume is None and method_class(method).reads == "clips")
    if data is not None and of_clips:
        data = as_clips(data, fps)
    config = PretrainConfig(
        data=describe_spec(data), method=method, preset=preset, seed=seed, options=options,
        backbone=backbone or method_class(method).backbone, image_size=image_size, pretrained=pretrained, stem=stem,
        output_stride=output_stride,
        gentle=gentle, layer_decay=layer_decay, lora=lora, guard=guard, drop_path=drop_path,
        native=native, tokens=tokens, patch_drop=patch_drop,
        patches=patches, recompute=recompute, max_gap=max_gap,
        epochs=epochs, max_steps=max_steps, batch_size=batch_size, accumulate=accumulate,
        optimizer=optimizer, lr=lr, weight_decay=weight_decay, warmup_epochs=warmup_epochs,
        trust_coefficient=trust_coefficient, clip=clip, accelerator=accelerator, devices=devices, num_nodes=num_nodes,
        precision=precision, workers=workers, threads=threads, cache=cache, compile=compile,
        small_maps=small_maps, deterministic=deterministic, monitor_every=monitor_every,
        checkpoint_steps=checkpoint_steps, report=report, report_images=report_images,
    )  # fmt: skip
    if resume is not None:
        run = Run(resume)
        if more := sorted(config.given().keys() - {"workers", "data"}):
            raise UsageError(f"--resume takes {more[0]} from {run.config_file}; leave it out, or begin another run")
        given: dict[str, Any] = {"workers": workers, "trust_code": trust_code, "quiet": quiet}
        with consent(trust_code):
            return continue_run(run, data, **given, accept_changed_data=accept_changed_data)
    if data is None or (isinstance(data, list) and not data):
        raise UsageError("no data given; name a folder of images, for example: glocal pretrain photos/")
    with consent(trust_code):
        return start_run(config, data, out=out, quiet=quiet)


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
    accelerator: str = "auto",
    workers: int | None = None,
    threads: int | None = None,
    out: str | None = None,
) -> Path:
    """Methods side by side: the same data, backbone and budget.

    Several seeds, and one page that says which to choose. Each run is a process of its own, so that its memory can be
    measured. What was finished is kept: the same command goes on where it was interrupted, and takes further methods
    or seeds.

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
        accelerator: "auto", "cpu", "cuda" or "mps", to train and to score on.
        workers: loader processes.
        threads: of each run on the CPU.
        out: the comparison's directory, by default comparisons/DATA-BUDGET.

    Returns:
        The directory, with comparison.html and comparison.json.

    Raises:
        UsageError: for bad options, or if `out` holds another comparison.
    """
    from glocal.comparison import Entry, compare_methods
    from glocal.comparison.compare import Protocol
    from glocal.devices import find_device
    from glocal.evaluation import possible_tasks

    images = [data] if isinstance(data, str) else list(data)
    if evaluate_on is None and len(images) > 1:
        raise UsageError("several data sets to pretrain on; say which to score on with --evaluate-on")
    if limit is not None and limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1")
    labelled = evaluate_on or images[0]
    settings = {
        "backbone": backbone, "image_size": image_size, "batch_size": batch_size, "pretrained": pretrained,
        "stem": stem, "output_stride": output_stride, "workers": workers, "threads": threads,
    }  # fmt: skip
    find_device(accelerator)  # refuses what the machine lacks
    settings |= {"accelerator": accelerator} if accelerator != "auto" else {}  # older ones do not say so
    scored: dict[str, Any] = {"evaluate_on": labelled, "tasks": tasks or possible_tasks(labelled), "limit": limit}
    protocol = Protocol(data=images, budget=budget, seeds=seeds, settings=settings, **scored)
    folder = Path(out or Path("comparisons") / f"{Path(images[0]).name}-{budget}".replace(":", "-"))
    return compare_methods([Entry.parse(text) for text in methods], protocol, folder)
