"""A fine-tuning run from labelled images and an encoder to a folder that predicts; see `glocal.finetune`."""

import copy
import shlex
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from glocal.adaptation.decide import decide, finer_map
from glocal.adaptation.finetune import FineTuning, Previous, class_weights, never_seen
from glocal.adaptation.heads import Labelled, find_head, given, save_head, width_seen
from glocal.adaptation.memory import Neighbours, exemplars
from glocal.adaptation.predict import predictions, score
from glocal.adaptation.ranked import Ranked, twins
from glocal.backbones import Backbone, build_backbone, load_encoder, save_encoder
from glocal.backbones.fold import fold
from glocal.backbones.weights import encoder_weights, read_checkpoint
from glocal.config import PretrainConfig
from glocal.data import Subset, describe, describe_spec
from glocal.data.inventory import changes, inventory
from glocal.data.source import ImageSource
from glocal.distributed import on_each, on_first
from glocal.errors import UsageError
from glocal.evaluation.extract import stream
from glocal.evaluation.split import spread_over
from glocal.fabric import Fabric
from glocal.heads import sync_batch_norms
from glocal.pipeline.conclude import environment
from glocal.pipeline.labelled import Split, open_labelled
from glocal.pipeline.launch import algorithms, meet
from glocal.pipeline.past import Past, keep, open_past, recall
from glocal.pipeline.start import code_in
from glocal.plugins import refuse_untrusted
from glocal.random import derive
from glocal.report import write_report
from glocal.run import Run, write_json
from glocal.training import fit
from glocal.training.online_eval import Look
from glocal.views import Appearance, Batch, EpochPlan, ViewLoader

OPTIONS = "head", "train", "mixup", "class_weights", "hold_out", "split_by", "labels", "memory", "names", "text"
CHECKED = 1000
"""Held-out images that are looked at during training, at most; all are at the end."""
MEMORY = 20
"""Exemplars of each class that a head looks at where --memory does not say how many."""
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

    return _finetune(config, data, opened, place, resume=False, trust_code=trust_code, quiet=quiet)


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
    return _finetune(config, data, encoder, lambda source: run, resume=True, trust_code=trust_code, quiet=quiet)


def _resume(run: Run) -> str:
    return f"glocal finetune --resume {shlex.quote(str(run))}"


def _finetune(
    config: PretrainConfig,
    data: Any,
    encoder: Backbone,
    place: Callable[..., Run],
    *,
    resume: bool,
    trust_code: bool,
    quiet: bool,
) -> Path:
    fabric, config, machine = meet(config)
    with ExitStack() as held:
        held.enter_context(algorithms(fabric.device, deterministic=config.deterministic))
        if resume and (head := config.options["head"]):  # what was given may have changed since
            config = replace(config, options={**config.options, **given(find_head(str(head)), place(None))})
        past = on_each(lambda: open_past(config, trust_code=trust_code))
        options, recalled = recall(config.options, past is not None)
        if past is None and isinstance(config.pretrained, str) and Run(config.pretrained).head_files[0].is_file():
            recalled.append(f"the head of {config.pretrained} is left there: what it knew is kept with --memory 20")
        name, split = on_each(lambda: open_labelled(data, options, config.seed, past))
        cls = find_head(name)
        if options.get("memory") is not None and (cls.needs != "labels" or issubclass(cls, Ranked)):
            raise UsageError(f"--memory keeps images of classes; --head {name} learns from {cls.needs}: leave it out")
        config = replace(config, options={**options, "head": name})
        config, schedule, notes = decide(config, len(split.train.source), machine, cls)
        notes = recalled + notes
        encoder = encoder.earlier() if getattr(cls, "earlier", False) else encoder
        encoder, remark = finer_map(encoder, config.image_size, cls.least_cells)
        notes += remark
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive(config.seed, "init"))
            own = {option: options[option] for option in getattr(cls, "options", ())}
            head = on_each(lambda: cls(width_seen(cls, encoder), split.train.classes, **own))
            method = _method(config, encoder, head, split.train, past)
        if past and isinstance(head, Neighbours) and not isinstance(past.head, Neighbours):
            notes.append(f"head mtn: as {config.pretrained} was not made with it, neighbours add nothing to replay")
        if not getattr(head, "flip", 0.5):
            notes.append("flip 0: no keypoint's name says left or right, as a mirrored image would need")
        notes += twins(head.classes) if options["names"] else []
        if cls.needs == "labels" and not issubclass(cls, Ranked):
            notes += never_seen(split.train.classes, split.train.amounts)
        if fabric.world_size > 1:
            sync_batch_norms(method)
        settings: dict[str, Any] = {"image_size": config.image_size, "batch_size": 64}
        number = config.options.get("memory") or MEMORY

        def remember(_: Any = None) -> EpochPlan:
            """Let the head look at exemplars as the encoder now sees them."""
            method.head.remember(
                *on_first(lambda: exemplars(encoder, method.head, split.train.source, number, **settings))
            )
            return EpochPlan()

        if not resume:
            method.head.load_state_dict(on_first(lambda: _begin(fabric, method, split.train.source, past, settings)))
        if hasattr(cls, "remember"):
            if not resume:
                remember()
            if config.options["train"] != "head":
                method.before_epoch = remember  # type: ignore[assignment]

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
                if hasattr(head, "keep"):
                    head.keep(run)
            return run

        run = on_first(claim)
        on_cpu = fabric.device.type == "cpu"
        appearance = Appearance(method.recipe, encoder.mean, encoder.std, config.seed)
        loader = ViewLoader(
            split.train.source, method.recipe, batch_size=schedule.batch_size, seed=config.seed,
            workers=config.workers or 0, low_priority=on_cpu, appearance=appearance if on_cpu else None,
            rank=fabric.global_rank, world_size=fabric.world_size,
        )  # fmt: skip
        finish = _Answered(method.recipe, encoder.mean, encoder.std, config.seed)
        finish.target = split.train.target

        def check(held: Labelled, trained: Any, epoch: int) -> Look:
            found = score(trained, method.head, spread_over(held.source, CHECKED), **settings)
            return Look({f"validation/{key}": value for key, value in found.items()})

        if fabric.is_global_zero and not quiet:
            said = f"checked on {len(split.held.source):,} others: {split.said}" if split.held else split.said
            title = f"fine-tuning · {encoder.name} · {describe(split.everything)} → {run}"
            learnt = f"learning from {len(split.train.source):,} images"
            if past:
                learnt += f" ({len(past.exemplars):,} of them of the {len(past.head.classes):,} classes known before)"
            print("\n  ".join([title, f"{learnt}, {said}", *notes]))
        plan: dict[str, Any] = {"optimization": method.optimization, "schedule": schedule, "seed": config.seed}
        monitor = partial(check, split.held) if split.held else None
        ended = fit(fabric, method, loader, finish, run, **plan, resume=resume, monitor=monitor, quiet=quiet)
        skipped = {split.train.source.key(i): why for i, why in ended.skipped.items()}
        skipped |= split.train.skipped | (split.held.skipped if split.held else {})
        fold(encoder)
        if hasattr(method, "before_epoch"):
            remember()
        measure = partial(_conclude, run, config, method.eval(), split, data, skipped, ended.step, past, quiet=quiet)
        on_first(lambda: measure(settings))
    return run.path


class _Answered(Appearance):
    """Finishes views, and adds what is to be said of them."""

    target: Callable[[Batch], torch.Tensor]

    def __call__(self, batch: Batch, *args: Any, **options: Any) -> Batch:
        known = replace(batch, extra={**batch.extra, "target": self.target(batch)})
        return super().__call__(known, *args, **options)


def _method(config: PretrainConfig, encoder: Backbone, head: Any, train: Labelled, past: Past | None) -> FineTuning:
    own: dict[str, Any] = {"train": config.options["train"], "mixup": config.options["mixup"]}
    own["layer_decay"] = config.layer_decay
    weights = class_weights(train.amounts) if config.options["class_weights"] else None
    decay: Any = config.weight_decay
    if past and config.options["memory"]:
        before = None if own["train"] == "head" else copy.deepcopy(encoder)
        own["previous"] = Previous(past.head, before)
    if past and isinstance(head, Neighbours):
        head.model.get_submodule("fusion").requires_grad_(False)
    return FineTuning(encoder, head, image_size=config.image_size, weights=weights, weight_decay=decay, **own)


def _begin(
    fabric: Fabric, method: FineTuning, source: ImageSource, past: Past | None, settings: dict[str, Any]
) -> dict[str, Any]:
    """The head's state when it has looked at some training images."""
    encoder, head, some = method.encoder.to(fabric.device), method.head, spread_over(source, BEGUN_WITH)
    looked = [
        (i, head.looked_at(x).float().cpu()) for i, x in stream(encoder, some, crop_pct=head.crop_pct, **settings)
    ]
    if not looked:
        raise UsageError(f"none of the {len(source)} images of {source.name} can be read")
    index, seen = (torch.cat(each) for each in zip(*looked, strict=True))
    if past and isinstance(head, Neighbours) and isinstance(past.head, Neighbours):
        head.begin(seen, some, index, past.head)
    else:
        head.begin(seen, some, index)
    return head.state_dict()


def _conclude(
    run: Run,
    config: PretrainConfig,
    method: FineTuning,
    split: Split,
    data: Any,
    skipped: dict[str, str],
    steps: int,
    past: Past | None,
    settings: dict[str, Any],
    *,
    quiet: bool,
) -> None:
    """Save encoder and head, score them on the held-out images, report."""
    encoder, name = method.encoder, str(config.options["head"])
    encoder.requires_grad_(True)
    images = len(split.train.source)
    save_encoder(encoder, run.path, method="finetune", steps=steps, images=images, **environment())
    if split.held and hasattr(method.head, "settle"):
        method.head.settle(predictions(encoder, method.head, split.held.source, **settings), split.held.source)
    lost: list[tuple[str, str]] = []
    found = score(encoder, method.head, split.held.source, **settings, skipped=lost) if split.held else {}
    skipped |= dict(lost)
    if past and split.held:
        new = np.asarray(split.held.source.labels) >= len(past.head.classes)
        for which, rows in (("old", np.flatnonzero(~new)), ("new", np.flatnonzero(new))):
            if len(rows):
                some = score(encoder, method.head, Subset(split.held.source, rows), **settings)
                found |= {f"{key}_{which}": value for key, value in some.items()}
    tested = len(split.held.source) - len(lost) if split.held else 0
    save_head(method.head, name, encoder, run.path, scores=found, images=tested, held_out=split.said)
    run.write_skipped(skipped)
    if config.options.get("memory"):
        keep(run, encoder, method.head, split, config.options["memory"], **settings)
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
