"""A run from its configuration on, or from where it was left."""

import os
import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from glocal.adaptation.masks import save_mask
from glocal.backbones import Backbone
from glocal.backbones.fold import fold
from glocal.backbones.weights import read_checkpoint
from glocal.config import ABSENT, SHARED, AdaptConfig, PretrainConfig
from glocal.data import TextSource, code_of, describe, is_text
from glocal.data.inventory import changes, inventory
from glocal.data.source import ImageSource
from glocal.data.stream import Stream
from glocal.diagnostics import diagnose, paints
from glocal.distributed import on_each, on_first
from glocal.errors import UsageError
from glocal.evaluation.evaluate import open_splits, possible_tasks
from glocal.fabric import Fabric
from glocal.methods import method_class, method_options
from glocal.pipeline.conclude import conclude
from glocal.pipeline.launch import algorithms, meet, under_torchrun
from glocal.pipeline.prepare import build_method, prepare
from glocal.pipeline.share import open_together
from glocal.pipeline.texts import check_reads, for_texts, look_at_texts, placed
from glocal.plugins import refuse_untrusted
from glocal.progress import shown_progress
from glocal.run import Run
from glocal.training import Harmed, Monitor, Resolved, fit, resolve
from glocal.training.online_eval import Look, OnlineEval
from glocal.views import Appearance, PixelCache, TextLoader, ViewLoader

Begun = Literal["new", "same", "changed"]
"""Whether a run has a checkpoint, and whether the data is as it was then."""


def start_run(config: PretrainConfig, data: Any, *, out: str | None, quiet: bool) -> Path:
    """Decide what was left open, create the run's directory, train, evaluate, report. See `glocal.pretrain`."""

    def place(source: ImageSource) -> Run:
        name = f"{config.method}-{config.backbone}-{Path(source.name).name}".replace("/", "-").replace(":", "-")
        return Run.create(out, name, command=_command(config))

    return train(config, data, place, resume=False, quiet=quiet)


def continue_run(
    run: Run, data: Any, *, workers: int | None, trust_code: bool, quiet: bool, accept_changed_data: bool
) -> Path:
    """Go on where a run stopped, exactly as if it had not, unless the data is no longer what it was.

    Where hosts share no file system, only that of the first process has to have the run.
    """
    elsewhere = os.environ.get("RANK", "0") != "0" and not run.config_file.exists()
    config = PretrainConfig()
    if not elsewhere:
        config = stored_config(Run.open(run.path), workers=workers, trust_code=trust_code)
        if isinstance(config, AdaptConfig) and config.prune_rounds > 1 and not run.has_checkpoint:
            raise UsageError(f"{run} is pruned in rounds; continue it: {_resume_command(run, config)}")
    if not elsewhere and (now := under_torchrun(config)).processes != config.processes:
        said = f"{run} was begun on {config.processes} processes, not {now.processes}"
        raise UsageError(f"{said}: with others each step would have other images; start as many")
    if config.data is None and data is None and not elsewhere:
        raise UsageError(f"the images of {run} were given in Python: glocal.pretrain(images, resume={str(run)!r})")

    def check(source: ImageSource) -> Begun:
        if changed := _changes(run, source):
            said = f"the data of {run} has changed ({changed})"
            if not accept_changed_data:
                raise UsageError(f"{said}; restore it, or accept it: --accept-changed-data")
            run.write_inventory(inventory(source))
            if not quiet:
                print(f"{said}, which is accepted")
        if not run.has_checkpoint:
            return "new"
        return "changed" if changed else "same"

    return train(config, data, lambda source: run, resume=True, quiet=quiet, check=check)


def _changes(run: Run, source: ImageSource) -> str:
    """What differs from the data that the run was begun with, in a few words; "" for nothing."""
    before = run.inventory()
    if isinstance(source, Stream) and run.has_checkpoint:
        last, digest = read_checkpoint(run)["position"].get("passed") or (0, source.passed(0))
        if source.passed(last) != digest:
            return f"its first {last + 1:,} images are others"
    return "" if before is None else changes(before, inventory(source))


def stored_config(run: Run, *, workers: int | None = None, trust_code: bool = False) -> PretrainConfig:
    """The configuration under which a run was begun; what it says nothing of was then not an option."""
    stored = run.config()
    # what these were when they were constants
    before = {"small_maps": [49, 9] if "bf16" in str(stored.get("precision")) else [9, 9]}
    kind = AdaptConfig if "by" in stored else PretrainConfig
    config = kind.from_dict({**ABSENT, **before, **stored}, origin=str(run.config_file))
    code = code_in(config.settings())
    refuse_untrusted(code, origin=run.config_file, trust_code=trust_code, command=_resume_command(run, config))
    known = method_options(method_class(config.method))
    absent = {name: option.default for name, option in known.items() if name not in SHARED}
    workers = config.workers if workers is None else workers
    return replace(config, workers=workers, options={**absent, **config.options})


def trained_method(run: Run, *, trust_code: bool = False) -> Any:
    """See `glocal.load_method`."""
    config = stored_config(run, trust_code=trust_code)
    method = build_method(config, begun=True)
    state = read_checkpoint(run)["method"]
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"the checkpoint of {run} is of another config.yaml: {str(error).splitlines()[0]}") from error
    fold(method)
    return method.eval()


def train(
    config: PretrainConfig,
    data: Any,
    place: Callable[[ImageSource], Run],
    *,
    resume: bool,
    quiet: bool,
    check: Callable[[ImageSource], Begun] = lambda source: "new",
) -> Path:
    """`check` refuses images that are not the run's, and says whether it has a checkpoint to go on from, of others."""
    fabric, config, machine = meet(config)
    with ExitStack() as held:
        held.enter_context(algorithms(fabric.device, deterministic=config.deterministic))
        data, source = open_together(config.data if data is None else data)
        texts = is_text(data)
        check_reads(config, texts=texts)
        config = for_texts(config) if texts else config
        begun = on_first(lambda: check(source))
        machine, method = prepare(fabric, config, source, machine, begun=begun != "new")
        resolved, notes = resolve(config, source, machine)
        config, schedule = resolved.config, resolved.schedule
        assert resolved.optimization is not None
        assert schedule is not None
        if config.recompute:
            method.encoder.recompute_blocks()
        for module in method.modules() if config.compile else ():
            if isinstance(module, Backbone):  # the encoder and its teacher, in their first steps
                module.compile_training()
        loader, appearance = _loader(fabric, method, source, resolved)
        notes += loader.notes
        if config.report and not texts and not isinstance(source, Stream):
            notes.append(_scored(source))

        def claim() -> Run:
            run = place(source)
            held.enter_context(run.lock())
            run.resume_command = _resume_command(run, config)
            if not resume:
                run.write_config(config.to_dict())
                run.write_inventory(inventory(source))
            return run

        run = on_first(claim)
        if fabric.is_global_zero and not quiet:
            title = method_class(config.method).title
            weights = "released weights" if config.pretrained is True else config.pretrained
            network = f"{config.backbone} from {weights}" if weights else config.backbone
            print("\n  ".join([f"{title} · {network} · {describe(source)} → {run}", *notes]))
        plan: dict[str, Any] = {"optimization": resolved.optimization, "schedule": schedule, "seed": config.seed}
        scored = source if config.data is None or isinstance(source, Stream) else data
        watched = cast(TextSource, source)
        monitor = look_at_texts(watched, config) if texts else _monitor(run, source, scored, config)
        plan |= {"monitor": monitor, "guard": bool(config.guard), "changed": begun == "changed"}
        ended = fit(fabric, method, loader, appearance, run, **plan, resume=resume, quiet=quiet)
        if isinstance(config, AdaptConfig):
            on_first(lambda: save_mask(method.encoder, run.mask_file))
        fold(method)
        on_first(lambda: conclude(run, config, method.eval(), source, scored, ended, quiet=quiet))
    return run.path


def _loader(fabric: Fabric, method: Any, source: Any, resolved: Resolved) -> tuple[Any, Any]:
    """What serves the batches of a run, and what is done to each on its way to the model."""
    config, schedule = resolved.config, resolved.schedule
    assert schedule is not None
    settings: dict[str, Any] = {"batch_size": schedule.batch_size // schedule.accumulate, "seed": config.seed}
    settings |= {"rank": fabric.global_rank, "world_size": fabric.world_size}
    if method_class(config.method).reads == "text":
        return TextLoader(source, method.recipe.spans, method.encoder.model, **settings), placed
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, config.seed)
    on_cpu = fabric.device.type == "cpu"
    if config.cache:  # the other processes of a host find it made
        first = fabric.local_rank == 0
        cache = on_each(lambda: PixelCache(source, method.recipe.views), first=first)
        if getattr(source, "in_order", False) and first:
            with shown_progress() as progress:
                cache.fill(progress)
        settings["cache"] = cache
    settings["steps"] = resolved.steps * schedule.accumulate if isinstance(source, Stream) else None
    settings |= {"workers": config.workers or 0, "low_priority": on_cpu}
    settings["appearance"] = appearance if on_cpu or method.recipe.packing else None
    loader = ViewLoader(source, method.recipe, **settings)
    if loader.steps_per_epoch < schedule.accumulate:  # else it has refused already
        raise UsageError(f"{source.name} has {len(source)} images, fewer than one batch of {schedule.batch_size}")
    return loader, appearance


def _scored(source: ImageSource) -> str:
    """What the report will score, said before training, while labels and masks can still be put right."""
    try:
        return f"report: {', '.join(possible_tasks(source))}"
    except UsageError as refusal:
        return f"report: nothing can be scored: {refusal}"


def code_in(config: Mapping[str, Any]) -> list[str]:
    """The places module:attribute that a run of this configuration imports."""
    named = [str(config.get(option)) for option in ("method", "backbone")]
    return [name for name in named if ":" in name] + code_of(config.get("data"))


def _command(config: PretrainConfig) -> str:
    return "adapt" if isinstance(config, AdaptConfig) else "pretrain"


def _resume_command(run: Run, config: PretrainConfig) -> str:
    """What to paste to go on; of a round of pruning, with all of it."""
    whole = run.path.parent.parent if run.path.parent.name == run.rounds.name else run.path
    trust = " --trust-code" if code_in(config.settings()) else ""
    return f"glocal {_command(config)} --resume {shlex.quote(str(whole))}{trust}"


def _monitor(run: Run, source: ImageSource, scored: Any, config: PretrainConfig) -> Monitor:
    """What looks at the encoder during training, and stops a collapse; for a guard, at no image it is tested on."""

    @cache
    def watch() -> OnlineEval:
        images = open_splits(scored, config.seed).train if config.guard else source
        options: dict[str, Any] = {"image_size": config.image_size, "seed": config.seed, "options": config.to_dict()}
        return OnlineEval(images, **options, guard=bool(config.guard))

    def monitor(encoder: Any, epoch: int) -> Look:
        log = run.metrics()
        look = watch()(encoder, epoch, paints=paints(log))
        for found in diagnose([line for line in log if "loss" in line]):
            if found.name == "complete collapse":  # behind the projector: the encoder follows slowly
                raise Harmed(f"stopped after epoch {epoch}: {found.told(config.to_dict())}")
        return look

    return monitor
