"""A run from its configuration on, or from where it was left."""

import shlex
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from glocal.backbones import Backbone
from glocal.backbones.weights import read_checkpoint
from glocal.config import ABSENT, PretrainConfig
from glocal.data import code_of, describe
from glocal.data.inventory import changes, inventory
from glocal.data.source import ImageSource
from glocal.data.stream import Stream
from glocal.diagnostics import diagnose
from glocal.errors import UsageError
from glocal.methods import method_class, method_options
from glocal.pipeline.conclude import conclude
from glocal.pipeline.launch import check_same_data, launch, on_main, under_torchrun
from glocal.pipeline.prepare import build_method, prepare
from glocal.plugins import refuse_untrusted
from glocal.run import Run
from glocal.training import Monitor, TrainingStopped, fit, resolve, this_machine
from glocal.training.online_eval import OnlineEval
from glocal.views import Appearance, PixelCache, ViewLoader


def start_run(config: PretrainConfig, source: ImageSource, *, out: str | None, quiet: bool) -> Path:
    """Decide what was left open, create the run's directory, train, evaluate, report. See `glocal.pretrain`."""
    config = under_torchrun(config)
    name = f"{config.method}-{config.backbone}-{Path(source.name).name}".replace("/", "-").replace(":", "-")
    return _train(config, source, lambda: Run.create(out, name), resume=False, quiet=quiet)


def continue_run(
    run: Run, config: PretrainConfig, source: ImageSource, *, quiet: bool, accept_changed_data: bool = False
) -> Path:
    """Go on where a run stopped, exactly as if it had not, unless the data is no longer what it was."""
    before, now = run.inventory(), inventory(source)
    changed = "" if before is None else changes(before, now)
    if isinstance(source, Stream) and run.has_checkpoint:
        last, digest = read_checkpoint(run)["position"].get("passed") or (0, source.passed(0))
        changed = changed if source.passed(last) == digest else f"its first {last + 1:,} images are others"
    if changed and not accept_changed_data:
        raise UsageError(f"the data of {run} has changed ({changed}); restore it, or accept it: --accept-changed-data")
    return _train(config, source, lambda: run, resume=True, quiet=quiet)


def stored_config(run: Run, *, workers: int | None = None, trust_code: bool = False) -> PretrainConfig:
    """The configuration under which a run was begun; what it says nothing of was then not an option."""
    stored = run.config()
    # what these were when they were constants
    before = {"small_maps": [49, 9] if "bf16" in str(stored.get("precision")) else [9, 9]}
    config = PretrainConfig.from_dict({**ABSENT, **before, **stored}, origin=str(run.config_file))
    code = code_in(config.settings())
    refuse_untrusted(code, origin=run.config_file, trust_code=trust_code, command=_resume_command(run, code))
    known = method_options(method_class(config.method))
    absent = {name: option.default for name, option in known.items() if name != "image_size"}
    workers = config.workers if workers is None else workers
    return replace(config, workers=workers, options={**absent, **config.options})


def trained_method(run: Run, *, trust_code: bool = False) -> Any:
    """See `glocal.load_method`."""
    config = stored_config(run, trust_code=trust_code)
    method = build_method(replace(config, pretrained=False))
    method.encoder.pretrained = config.pretrained
    state = read_checkpoint(run)["method"]
    try:
        method.load_state_dict(state)
    except RuntimeError as error:
        raise UsageError(f"the checkpoint of {run} is of another config.yaml: {str(error).splitlines()[0]}") from error
    return method.eval()


def _train(config: PretrainConfig, source: ImageSource, place: Callable[[], Run], *, resume: bool, quiet: bool) -> Path:
    machine = this_machine(config.accelerator)
    fabric = launch(resolve(config, source, machine)[0].config)
    machine, method = prepare(fabric, config, source, machine)
    check_same_data(fabric, source)
    resolved, notes = resolve(config, source, machine)
    config, schedule = resolved.config, resolved.schedule
    assert resolved.optimization is not None
    assert schedule is not None
    pixels = None
    if config.cache:
        with fabric.rank_zero_first():  # the others find it made
            pixels = PixelCache(source, method.recipe.views)
        notes.append(pixels.note)
    for module in method.modules() if config.compile else ():
        if isinstance(module, Backbone):  # the encoder and its teacher, in their first steps
            module.compile_training()
    on_cpu = fabric.device.type == "cpu"
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, config.seed)
    settings: dict[str, Any] = {"batch_size": schedule.batch_size // schedule.accumulate, "seed": config.seed}
    settings |= {"workers": config.workers or 0, "low_priority": on_cpu, "cache": pixels}
    settings |= {"rank": fabric.global_rank, "world_size": fabric.world_size}
    settings["steps"] = resolved.steps * schedule.accumulate if isinstance(source, Stream) else None
    loader = ViewLoader(source, method.recipe, appearance=appearance if on_cpu else None, **settings)
    notes += loader.notes
    with ExitStack() as held:

        def claim() -> Run:
            run = place()
            held.enter_context(run.lock())
            run.resume_command = _resume_command(run, code_in(config.settings()))
            if not resume:
                run.write_config(config.to_dict())
                run.write_inventory(inventory(source))
            return run

        run = on_main(fabric, claim)
        if fabric.is_global_zero and not quiet:
            title = method_class(config.method).title
            print("\n  ".join([f"{title} · {config.backbone} · {describe(source)} → {run}", *notes]))
        plan: dict[str, Any] = {"optimization": resolved.optimization, "schedule": schedule, "seed": config.seed}
        monitor = _monitor(run, source, config)
        ended = fit(fabric, method, loader, appearance, run, **plan, resume=resume, monitor=monitor, quiet=quiet)
        if fabric.is_global_zero:
            conclude(run, config, method.cpu().eval(), source, ended, quiet=quiet)
    return run.path


def code_in(config: Mapping[str, Any]) -> list[str]:
    """The places module:attribute that a run of this configuration imports."""
    named = [str(config.get(option)) for option in ("method", "backbone")]
    return [name for name in named if ":" in name] + code_of(config.get("data"))


def _resume_command(run: Run, code: list[str]) -> str:
    """What to paste to go on."""
    return f"glocal pretrain --resume {shlex.quote(str(run))}{' --trust-code' if code else ''}"


def _monitor(run: Run, source: ImageSource, config: PretrainConfig) -> Monitor:
    """What looks at the encoder during training, and stops a collapse."""

    def monitor(encoder: Any, epoch: int) -> dict[str, float]:
        numbers = OnlineEval(source, image_size=config.image_size, seed=config.seed)(encoder, epoch)
        for found in diagnose(run.metrics()):
            if found.name == "complete collapse":  # behind the projector: the encoder follows slowly
                raise TrainingStopped(f"stopped after epoch {epoch}: {found}")
        return numbers

    return monitor
