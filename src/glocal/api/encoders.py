"""What is done with encoders: opened, measured, applied, handed over."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glocal.errors import UsageError
from glocal.progress import shown_progress

if TYPE_CHECKING:
    from torch import nn

    from glocal.backbones import Backbone
    from glocal.exporters.embed import Embeddings
    from glocal.run import Run


Which = Literal["student", "teacher"]


def load(
    encoder: str,
    *,
    which: Which = "student",
    mask: str | None = None,
    image_size: int | None = None,
    trust_code: bool = False,
) -> Backbone:
    """An encoder from a run, an exported folder or file, or timm.

    Args:
        encoder: a run's directory, encoder.safetensors (or its folder), `timm:NAME` for released weights,
            `timm:NAME:FILE` for a file's, `timm:NAME:random`; of our MobileNets the file alone.
        which: of a run of BYOL, MoCo-v3, DINO, MSN or LOCA, and of their CO- variants, also the "teacher", the moving
            average that the papers of DINO and MSN evaluate: as its last checkpoint has it.
        mask: the mask.npz of a run that adapted this very encoder: it then computes what that run's encoder does.
        image_size: for vision transformers built for one size.
        trust_code: import the module:function of an unregistered backbone, which the encoder's file names.

    Returns:
        A Backbone in evaluation mode: (B, 3, h, w) normalised pixels -> Features(pooled, dense, ...).

    Raises:
        UsageError: if there is no encoder there, or the mask is of another one.
    """
    from glocal.adaptation.masks import load_mask
    from glocal.backbones import load_encoder
    from glocal.methods import teacher_of

    if which == "teacher":
        method = load_method(encoder, trust_code=trust_code)
        if (teacher := teacher_of(method)) is None:
            raise UsageError(f"{encoder}: {type(method).__name__} keeps no teacher; leave out which=teacher")
        return teacher
    opened = load_encoder(encoder, image_size=image_size, trust_code=trust_code)
    return opened if mask is None else load_mask(opened, mask)


def load_method(run: str | Path, *, trust_code: bool = False) -> nn.Module:
    """The whole method of a run, heads and teacher included, as its last checkpoint has it: for research.

    Args:
        run: the directory of a run, which may be unfinished.
        trust_code: import what its config.yaml names as module:attribute.

    Returns:
        The method in evaluation mode, on the CPU; its `encoder` is what `load` gives of a finished run, unless a guard
        handed over that of an earlier step.

    Raises:
        UsageError: if it is no run, or has no checkpoint, or one that does not fit its config.yaml.
    """
    from glocal.pipeline import trained_method
    from glocal.run import Run

    return trained_method(Run.open(run), trust_code=trust_code)


def evaluate(
    encoder: str | Backbone | list[str],
    data: str,
    *,
    which: Which = "student",
    mask: str | None = None,
    tasks: list[str] | None = None,
    patch: int | Literal["all"] | None = None,
    image_size: int | None = None,
    native: bool = False,
    batch_size: int = 128,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    workers: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    split_by: str | None = None,
    task_options: dict[str, dict[str, Any]] | None = None,
    groups: str | None = None,
    harmful: list[str] | None = None,
    baselines: bool = False,
    json: str | None = None,
    trust_code: bool = False,
) -> dict[str, Any]:
    """Measure a frozen encoder as a global and as a dense feature.

    The report of a run shows it, too.

    Args:
        encoder: what `load` takes, or a Backbone; several, to stand in one table.
        data: labelled images; train and test splits are kept apart (a stratified fifth is held out where there are
            none).
        which: as for `load`.
        mask: as for `load`.
        tasks: see `glocal tasks`; by default all that the data allows.
        patch: of a FlexiViT, side of its patches in pixels, by default the encoder's own; "all": each that it was
            trained with, or, where that is not known, that divides the image.
        image_size: by default the encoder's own.
        native: whole photographs in their own shapes, with the area of that square, for networks like navit_small.
        batch_size: images per forward pass.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps". A Backbone
            is moved there and back.
        precision: of the features; by default bf16 on a GPU that has instructions for it, else fp32.
        workers: loader processes; by default none on the CPU, elsewhere one per core.
        seed: of splits and crops.
        limit: look at no more than so many training and test images.
        split_by: score on whole groups that are held out, about a fifth of the images: by the column of this name in
            the data's groups.csv or list, a patient; by "video", also where each has a folder.
        task_options: by task: '{"knn": {"k": 20}, "robustness": {"images": 200}}'.
        groups: a CSV file of what images share, `image,camera`: each task that scores every image is then scored group
            by group. A folder's own groups.csv, and the columns of a list, are used without asking.
        harmful: classes, or a file with one a line: in what share of each group's images the linear probe's five
            likeliest labels (of fewer than ten classes, half of them) hold one.
        baselines: also score the weights that its training started from, and raw pixels.
        json: a file to write the scores to.
        trust_code: as for `load`.

    Returns:
        {"knn": {"top1": ...}, "linear": {"top1": ...}, "segment": {"miou": ...}, "correspond": {"within_1_cell": ...},
        ...} for the tasks asked for, and "meta". With `baselines`, also "start" and "pixels", each the same again.
        Of several encoders, these by encoder; of all patches, by patch.

    Raises:
        UsageError: for an unknown task, or one the data cannot serve.
    """
    from glocal.api.patches import with_patches
    from glocal.data import is_text
    from glocal.evaluation.baseline import score, score_with_baselines
    from glocal.evaluation.extract import placed
    from glocal.generation import load_generator
    from glocal.run import Run, write_json

    given = encoder if isinstance(encoder, list) else [encoder]
    opened = [(each, opened_encoder(each, which, mask, image_size, trust_code, texts=True)) for each in given]
    views = [
        (each, said, view) for each, model in opened for said, view in with_patches(each, model, patch, image_size)
    ]
    settings: dict[str, Any] = {"tasks": tasks, "seed": seed, "limit": limit, "options": task_options}
    settings["split_by"] = split_by
    settings |= {"image_size": image_size, "batch_size": batch_size, "workers": workers, "precision": precision}
    settings |= {"groups": groups, "harmful": harmful or (), "native": native}
    found = []
    with shown_progress() as progress:
        measure = score_with_baselines if baselines else score
        for each, _, view in views:
            generator = method = None
            if isinstance(each, str) and Run(each).has_generator:
                generator = load_generator(each, trust_code=trust_code)
            if isinstance(each, str) and Run(each).has_checkpoint:
                method = partial(load_method, each, trust_code=trust_code)
            read = data if getattr(view, "reads", "images") == "images" or is_text(data) else f"text:{data}"
            with placed(view, device) as model:
                found.append(measure(model, read, **settings, generator=generator, method=method, progress=progress))
    names = [" ".join([str(each)] * (len(given) > 1) + [said] * bool(said)) for each, said, _ in views]
    result = found[0] if len(found) == 1 else dict(zip(names, found, strict=True))
    if json is not None:
        write_json(Path(json), result)
    for (each, said, _), scores in zip(views, found, strict=True):
        beside = ", its teacher" * (which == "teacher") + f", {said}" * bool(said)
        if mask is None:
            _keep_scores(each, data, scores, beside=beside, device=device, trust_code=trust_code)
    return result


def _keep_scores(
    encoder: str | Backbone, data: str, result: dict[str, Any], *, beside: str, device: str, trust_code: bool
) -> None:
    """Show them in the report of the run that the encoder is of."""
    from glocal.data import describe_spec
    from glocal.run import Run

    if isinstance(encoder, str) and (run := Run(encoder)).report_file.is_file():
        run.add_scores(f"{describe_spec(data) or 'images in memory'}{beside}", result)
        show_in_report(run, device=device, trust_code=trust_code)


def show_in_report(run: Run, *, device: str, trust_code: bool) -> None:
    """Write a run's report again, now that there is more to show."""
    from glocal.report import write_report

    try:
        print(f"report: {write_report(run.path, device=device, trust_code=trust_code)}", file=sys.stderr)
    except UsageError as refusal:
        print(f"{run.report_file} does not show it yet: {refusal}", file=sys.stderr)


def embed(
    encoder: str | Backbone,
    data: str | list[str],
    *,
    which: Which = "student",
    mask: str | None = None,
    out: str | None = None,
    split: Literal["train", "val", "test", "all"] = "all",
    dense: bool = False,
    image_size: int | None = None,
    native: bool = False,
    batch_size: int = 128,
    device: str = "auto",
    precision: Literal["fp32", "bf16"] | None = None,
    workers: int | None = None,
    trust_code: bool = False,
) -> Embeddings | Path:
    """The features of every image.

    Args:
        encoder: what `load` takes, or a Backbone.
        data: images; several folders one after the other.
        which: as for `load`.
        mask: as for `load`.
        out: a .parquet or .npz file; in Python, leave out to get arrays.
        split: of data that has splits.
        dense: also the feature maps.
        image_size: by default the encoder's own.
        native: whole photographs in their own shapes, with the area of that square, for networks like navit_small.
        batch_size: images per forward pass.
        device: "auto" (CUDA where there is one, else MPS, else the CPU), "cpu", "cuda", "cuda:1" or "mps". A Backbone
            is moved there and back.
        precision: of the features; by default bf16 on a GPU that has instructions for it, else fp32.
        workers: loader processes; by default none on the CPU, elsewhere one per core.
        trust_code: as for `load`.

    Returns:
        The file, or the embeddings.
    """
    from glocal.data import open_source
    from glocal.evaluation.extract import placed
    from glocal.exporters.embed import embed_source

    opened = opened_encoder(encoder, which, mask, image_size, trust_code)
    settings: dict[str, Any] = {"image_size": image_size, "dense": dense, "batch_size": batch_size, "workers": workers}
    settings |= {"precision": precision, "native": native}
    skipped: list[tuple[str, str]] = []
    source = open_source(data, split=split)
    with placed(opened, device) as model, shown_progress() as progress:
        result = embed_source(model, source, out=out, skipped=skipped, progress=progress, **settings)
    said = f"{len(source) - len(skipped):,} of {len(source):,} images embedded"
    said += f"; the others could not be read, the first being {skipped[0][0]}" if skipped else ""
    print(f"{said}; {source.note}" if source.note else said, file=sys.stderr)
    return result


def export(
    encoder: str | Backbone,
    *,
    which: Which = "student",
    mask: str | None = None,
    format: str = "timm",
    out: str,
    patch: int | None = None,
    image_size: int | None = None,
    native: bool = False,
    trust_code: bool = False,
) -> Path:
    """Hand an encoder over to timm, ONNX or torch.export.

    Args:
        encoder: what `load` takes, or a Backbone. Of a fine-tuned one "onnx" and "torch-export" hold the head, too.
        which: as for `load`.
        mask: as for `load`.
        format: "timm", a folder that timm.create_model('local-dir:OUT', pretrained=True) opens; "onnx" or
            "torch-export", a file with outputs `pooled` and `dense`, and `logits` of a head; "safetensors", glocal's
            own.
        out: the folder or file to write.
        patch: of a FlexiViT, side of its patches in pixels, by default the encoder's own; as "timm" it becomes an
            ordinary vision transformer of that patch.
        image_size: by default the encoder's own.
        native: refuse to write a file that does not take photographs of all shapes.
        trust_code: as for `load`.

    Returns:
        What was written.
    """
    from glocal.adaptation import load_head
    from glocal.api.patches import with_patches
    from glocal.exporters import export_encoder
    from glocal.exporters.timm_folder import encoder_card
    from glocal.run import Run

    ((_, model),) = with_patches(
        encoder, opened_encoder(encoder, which, mask, image_size, trust_code, texts=True), patch, image_size
    )
    about = encoder_card(encoder) if isinstance(encoder, str) else None
    head = None
    if isinstance(encoder, str) and format in ("onnx", "torch-export") and Run(encoder).head_files[0].is_file():
        head, _ = load_head(encoder, trust_code=trust_code)
    return export_encoder(model, format=format, out=out, image_size=image_size, native=native, about=about, head=head)


def opened_encoder(
    encoder: str | Backbone,
    which: Which,
    mask: str | None,
    image_size: int | None,
    trust_code: bool,
    *,
    texts: bool = False,
) -> Backbone:
    """What `load` gives for these, or the Backbone given in its place; one that reads texts only where they serve."""
    if image_size is not None and not 1 <= image_size <= 8192:
        raise UsageError(f"--image-size {image_size}: images have 1 to 8,192 pixels a side")
    given = encoder
    if isinstance(encoder, str):
        encoder = load(encoder, which=which, mask=mask, image_size=image_size, trust_code=trust_code)
    if getattr(encoder, "reads", "images") == "text" and not texts:
        raise UsageError(f"{given if isinstance(given, str) else 'the encoder'} reads texts; this needs one of images")
    return encoder
