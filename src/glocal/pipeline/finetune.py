"""A fine-tuning run from labelled images and an encoder to a folder that predicts; see `glocal.finetune`."""

import copy
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glocal.adaptation.decide import decide
from glocal.adaptation.finetune import FineTuning, class_weights
from glocal.adaptation.heads import Labelled, find_head, require, save_head, suited_head
from glocal.adaptation.predict import score
from glocal.backbones import Backbone, build_backbone, load_encoder, save_encoder
from glocal.backbones.fold import fold
from glocal.backbones.weights import encoder_weights, read_checkpoint
from glocal.config import PretrainConfig
from glocal.data import Subset, describe, describe_spec, has_split, listed, open_source
from glocal.data.inventory import changes, inventory
from glocal.data.source import ImageSource
from glocal.data.stream import Stream
from glocal.data.subset import split_by
from glocal.distributed import on_each, on_first
from glocal.errors import UsageError
from glocal.evaluation.extract import stream
from glocal.evaluation.split import held_out, spread_over
from glocal.fabric import Fabric
from glocal.heads import sync_batch_norms
from glocal.pipeline.conclude import environment
from glocal.pipeline.launch import algorithms, meet
from glocal.pipeline.start import code_in
from glocal.plugins import refuse_untrusted
from glocal.random import derive
from glocal.report import write_report
from glocal.run import Run, write_json
from glocal.training import fit
from glocal.training.defaults import finer_stride
from glocal.training.online_eval import Look
from glocal.views import Appearance, Batch, ViewLoader

OPTIONS = "head", "train", "mixup", "class_weights", "hold_out", "split_by"
CHECKED = 1000
"""Held-out images that are looked at during training, at most; all are at the end."""
BEGUN_WITH = 2000
"""Training images whose features the head begins with, at most."""


def start_finetuning(
    encoder: str | Backbone, data: Any, settings: dict[str, Any], *, out: str | None, trust_code: bool, quiet: bool
) -> Path:
    """Decide what was left open, make the run's directory, train, save; `settings` are `glocal.finetune`'s."""
    size = settings.pop("image_size")
    if isinstance(encoder, str):
        opened = load_encoder(encoder, image_size=size, trust_code=trust_code)
        opened.pretrained = weights_named(encoder)
    else:
        opened = copy.deepcopy(encoder)
        opened.pretrained = "an encoder given in Python"
    own = {name: settings.pop(name) for name in OPTIONS}
    config = PretrainConfig(
        method="finetune",
        data=describe_spec(data),
        backbone=opened.name,
        image_size=size or opened.image_size,
        pretrained=opened.pretrained,
        options=own,
        **settings,
    )

    def place(source: ImageSource) -> Run:
        name = f"finetune-{opened.name}-{Path(source.name).name}".replace("/", "-").replace(":", "-")
        return Run.create(out, name, command="finetune")

    return _finetune(config, data, opened, place, resume=False, quiet=quiet)


def weights_named(encoder: str) -> bool | str:
    """What `build_backbone` takes as `pretrained` to have the weights of an encoder that `load_encoder` opens."""
    if not encoder.startswith("timm:"):
        return encoder
    kind = encoder.split(":", 2)[2:]
    return True if not kind else False if kind == ["random"] else kind[0]


def continue_finetuning(run: Run, data: Any, *, workers: int | None, trust_code: bool, quiet: bool) -> Path:
    """Go on where a run stopped, exactly as if it had not."""
    config = PretrainConfig.from_dict(Run.open(run.path).config(), origin=str(run.config_file))
    if config.method != "finetune":
        raise UsageError(f"{run} is no fine-tuning run; continue it: glocal pretrain --resume {shlex.quote(str(run))}")
    if (data := config.data if data is None else data) is None:
        raise UsageError(f"the images of {run} were given in Python: glocal.finetune(data=images, resume={str(run)!r})")
    code = [*code_in(config.to_dict()), *(name for name in (str(config.options["head"]),) if ":" in name)]
    refuse_untrusted(code, origin=run.config_file, trust_code=trust_code, command=f"{_resume(run)} --trust-code")
    state = read_checkpoint(run)
    with torch.random.fork_rng(devices=[]):
        encoder = build_backbone(**state["encoder"] | {"pretrained": False})
    encoder.model.load_state_dict(encoder_weights(state), strict=False)  # also says what layers there are
    encoder.pretrained = config.pretrained
    config = replace(config, workers=config.workers if workers is None else workers)
    return _finetune(config, data, encoder, lambda source: run, resume=True, quiet=quiet)


def _resume(run: Run) -> str:
    return f"glocal finetune --resume {shlex.quote(str(run))}"


@dataclass
class _Split:
    """Labelled images to learn from and to check on, and in words where the latter come from."""

    everything: ImageSource
    train: Labelled
    held: Labelled | None
    said: str


def _open(data: Any, head: str | None, share: float, column: str | None, seed: int) -> tuple[str, _Split]:
    """The head that suits the data, and what it learns from and is checked on: `val`, else a share of the images."""
    if not 0 <= share < 1:
        raise UsageError(f"--hold-out {share} is not a share of the images: give 0, or less than 1")
    spec = listed(data)
    source = open_source(spec)
    if isinstance(source, Stream):
        raise UsageError(f"{source.name} is a stream: fine-tuning needs a folder or a list of labelled images")
    name = head or suited_head(source)
    require(source, name)
    cls = find_head(name)
    if share and column is None and has_split(spec, "train") and has_split(spec, "val"):
        train = cls.read(source)
        return name, _Split(source, train, cls.read(open_source(spec, split="val"), train.classes), "val")
    whole = cls.read(source)
    if not share:
        return name, _Split(source, whole, None, "nothing is held out")
    if cls.needs == "labels" and (few := np.flatnonzero(whole.amounts < 2)).size:
        lacking = f"class '{whole.classes[few[0]]}' has {whole.amounts[few[0]]} image(s)"
        raise UsageError(f"{source.name}: {lacking}; each needs two, one to learn from and one to check on")
    if column is not None:
        kept, held = split_by(source, column, share, seed)
        said = f"whole groups by {column}"
    else:
        labels = np.asarray(source.labels) if cls.needs == "labels" else None
        parts = held_out(len(source), seed, "finetune", labels=labels, share=share)
        kept, held = (Subset(source, at) for at in parts)
        said = f"about {share:.0%} of them"
    if not len(held):
        raise UsageError(f"{source.name} has {len(source)} image(s), too few to hold some back to check on")
    return name, _Split(source, cls.read(kept, whole.classes), cls.read(held, whole.classes), said)


def _finetune(
    config: PretrainConfig, data: Any, encoder: Backbone, place: Callable[..., Run], *, resume: bool, quiet: bool
) -> Path:
    fabric, config, machine = meet(config)
    with ExitStack() as held:
        held.enter_context(algorithms(fabric.device, deterministic=config.deterministic))
        options = config.options
        asked = options["head"], options["hold_out"], options["split_by"]
        name, split = on_each(lambda: _open(data, *asked, config.seed))
        cls = find_head(name)
        config, schedule, notes = decide(config, len(split.train.source), machine, dense=cls.least_cells > 0)
        config = replace(config, options={**config.options, "head": name})
        encoder, remark = _finer(encoder, config.image_size, cls.least_cells)
        notes += remark
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "init"))
            method = _method(config, encoder, cls(encoder.dim, split.train.classes), split.train)
        if fabric.world_size > 1:
            sync_batch_norms(method)
        settings: dict[str, Any] = {"image_size": config.image_size, "batch_size": 64}
        if not resume:
            method.head.load_state_dict(on_first(lambda: _begin(fabric, method, split.train.source, settings)))

        def claim() -> Run:
            run = place(split.everything)
            held.enter_context(run.lock())
            run.resume_command = _resume(run)
            before = run.inventory() if resume else None
            if before is not None and (changed := changes(before, inventory(split.everything))):
                raise UsageError(f"the data of {run} has changed ({changed}); restore it, or fine-tune anew")
            if not resume:
                run.write_config(config.to_dict())
                run.write_inventory(inventory(split.everything))
            return run

        run = on_first(claim)
        on_cpu = fabric.device.type == "cpu"
        appearance = Appearance(method.recipe, encoder.mean, encoder.std, config.seed)
        loader = ViewLoader(
            split.train.source, method.recipe, batch_size=schedule.batch_size, seed=config.seed,
            workers=config.workers or 0, low_priority=on_cpu, appearance=appearance if on_cpu else None,
            rank=fabric.global_rank, world_size=fabric.world_size,
        )  # fmt: skip

        def finish(batch: Batch, epoch: int, device: torch.device) -> Batch:
            known = replace(batch, extra={**batch.extra, "target": split.train.target(batch)})
            return appearance(known, epoch, device)

        def check(held: Labelled, trained: Any, epoch: int) -> Look:
            found = score(trained, method.head, spread_over(held.source, CHECKED), **settings)
            return Look({f"validation/{key}": value for key, value in found.items()})

        if fabric.is_global_zero and not quiet:
            said = f"checked on {len(split.held.source):,} others: {split.said}" if split.held else split.said
            title = f"fine-tuning · {encoder.name} · {describe(split.everything)} → {run}"
            print("\n  ".join([title, f"learning from {len(split.train.source):,} images, {said}", *notes]))
        plan: dict[str, Any] = {"optimization": method.optimization, "schedule": schedule, "seed": config.seed}
        monitor = partial(check, split.held) if split.held else None
        ended = fit(fabric, method, loader, finish, run, **plan, resume=resume, monitor=monitor, quiet=quiet)
        skipped = {split.train.source.key(i): why for i, why in ended.skipped.items()}
        skipped |= split.train.skipped | (split.held.skipped if split.held else {})
        measure = partial(_conclude, run, config, method.eval(), split, data, skipped, ended.step, quiet=quiet)
        on_first(lambda: measure(settings))
    return run.path


def _method(config: PretrainConfig, encoder: Backbone, head: Any, train: Labelled) -> FineTuning:
    own: dict[str, Any] = {"train": config.options["train"], "mixup": config.options["mixup"]}
    own["layer_decay"] = config.layer_decay
    weights = class_weights(train.amounts) if config.options["class_weights"] else None
    decay: Any = config.weight_decay
    return FineTuning(encoder, head, image_size=config.image_size, weights=weights, weight_decay=decay, **own)


def _finer(encoder: Backbone, size: int, least_cells: int) -> tuple[Backbone, list[str]]:
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


def _begin(fabric: Fabric, method: FineTuning, source: ImageSource, settings: dict[str, Any]) -> dict[str, Any]:
    """The head's state when it has looked at some training images."""
    encoder, head, some = method.encoder.to(fabric.device), method.head, spread_over(source, BEGUN_WITH)
    looked = [
        (i, head.looked_at(x).float().cpu()) for i, x in stream(encoder, some, crop_pct=head.crop_pct, **settings)
    ]
    if not looked:
        raise UsageError(f"none of the {len(source)} images of {source.name} can be read")
    index, seen = (torch.cat(each) for each in zip(*looked, strict=True))
    head.begin(seen, some, index)
    return head.state_dict()


def _conclude(
    run: Run,
    config: PretrainConfig,
    method: FineTuning,
    split: _Split,
    data: Any,
    skipped: dict[str, str],
    steps: int,
    settings: dict[str, Any],
    *,
    quiet: bool,
) -> None:
    """Save encoder and head, score them on the held-out images, report."""
    encoder, name = method.encoder, str(config.options["head"])
    fold(encoder)
    encoder.requires_grad_(True)
    images = len(split.train.source)
    save_encoder(encoder, run.path, method="finetune", steps=steps, images=images, **environment())
    found = score(encoder, method.head, split.held.source, **settings) if split.held else {}
    tested = len(split.held.source) if split.held else 0
    save_head(method.head, name, encoder, run.path, scores=found, images=tested, held_out=split.said)
    run.write_skipped(skipped)
    if found:
        meta = {"n_train": images, "n_test": tested, "split": split.said, "data": split.everything.name}
        write_json(run.scores_file, {name: found, "meta": meta})
    if not quiet:
        if skipped:
            print(f"{len(skipped)} images could not be read and were skipped (all in {run.skipped_file})")
        if found:
            print("  ".join(f"{key} {x:.3f}" for key, x in found.items()) + f" on {tested:,} images held out")
    if config.report:
        page = write_report(run.path, encoder=encoder, source=data, trust_code=True)
        if not quiet:
            print(f"report: {page}")
