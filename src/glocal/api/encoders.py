"""What is done with encoders: opened, measured, applied, handed over."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from glocal.api.opening import Which, load_method, opened_encoder
from glocal.errors import UsageError
from glocal.progress import shown_progress

if TYPE_CHECKING:
    from glocal.backbones import Backbone
    from glocal.exporters.embed import Embeddings
    from glocal.run import Run


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
