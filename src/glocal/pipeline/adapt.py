"""Masks on an encoder: pretraining runs in which its weights get bits, or are fewer each time; see `glocal.adapt`."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from glocal.adaptation.masks import masked_layers
from glocal.backbones import load_encoder
from glocal.config import AdaptConfig
from glocal.data import describe_spec
from glocal.data.source import ImageSource
from glocal.distributed import on_first
from glocal.errors import UsageError
from glocal.evaluation import possible_tasks
from glocal.evaluation.baseline import score
from glocal.pipeline.finetune import weights_named
from glocal.pipeline.start import continue_run, start_run, stored_config, train
from glocal.run import Run, write_json

EPOCHS = 150
"""Passes over the photographs, of all rounds together, as in the paper on masks."""


def start_adapting(
    encoder: str, data: Any, settings: dict[str, Any], *, out: str | None, trust_code: bool, quiet: bool
) -> Path:
    """Make the run's directory and train, once or in rounds; `settings` are `glocal.adapt`'s."""
    opened = load_encoder(encoder, image_size=settings.pop("image_size"), trust_code=trust_code)
    masked_layers(opened)
    settings |= {name: opened.config[name] for name in ("stem", "output_stride")}
    if settings["by"] == "mask":
        if settings["keep"] != 1.0 or settings["prune_rounds"] != 1:
            raise UsageError("--keep and --rounds are of --by prune: masks learn what they keep")
        settings |= {"gentle": False, "layer_decay": 1.0, "optimizer": "sgd"}
    elif settings["gentle"] is None:
        settings["gentle"] = False  # what is left of pruned weights has to learn again
    if settings["epochs"] is None and settings["max_steps"] is None:
        settings["epochs"] = max(10, EPOCHS // max(1, settings["prune_rounds"]))
    config = AdaptConfig(
        data=describe_spec(data),
        backbone=opened.name,
        image_size=opened.image_size,
        pretrained=weights_named(encoder),
        **settings,
    )
    if config.prune_rounds == 1:
        return start_run(config, data, out=out, quiet=quiet)

    def place(source: ImageSource) -> Run:
        run = Run.create(out, f"pruned-{config.backbone}-{Path(source.name).name}".replace("/", "-"), command="adapt")
        run.write_config(config.to_dict())
        return _round(run, config, 1)

    first = train(_of_round(None, config, 1), data, place, resume=False, quiet=quiet)
    return _go_on(Run(first.parent.parent), config, data, quiet=quiet)


def continue_adapting(
    run: Run, data: Any, *, workers: int | None, trust_code: bool, quiet: bool, accept_changed_data: bool
) -> Path:
    """Go on where a run stopped, in whatever round, exactly as if it had not."""
    config = stored_config(Run.open(run.path), workers=workers, trust_code=trust_code)
    if not isinstance(config, AdaptConfig):
        raise UsageError(f"{run} adapts no encoder; continue it: glocal pretrain --resume {run}")
    options: dict[str, Any] = {"workers": workers, "trust_code": trust_code, "quiet": quiet}
    for number in range(1, config.prune_rounds + 1):
        if not (begun := _round(run, config, number)).has_encoder and begun.has_checkpoint:
            continue_run(begun, data, **options, accept_changed_data=accept_changed_data)
    if _round(run, config, config.prune_rounds).has_encoder and not quiet:
        print(f"{run} has ended: {run.report_file if config.report else run.path}")
    return _go_on(run, config, data, quiet=quiet)


def _go_on(run: Run, config: AdaptConfig, data: Any, *, quiet: bool) -> Path:
    """The rounds that are left, each from the weights that all began with, and the scores of those before the last."""
    for number in range(1, config.prune_rounds + 1):
        at = _round(run, config, number)
        if not at.has_encoder:
            train(_of_round(run, config, number), data, partial(_there, at), resume=False, quiet=quiet)
        if number < config.prune_rounds and config.report and not at.scores():
            on_first(partial(_score, at, config, config.data if data is None else data))
    return run.path


def _there(run: Run, source: ImageSource) -> Run:
    return run


def _round(run: Run, config: AdaptConfig, number: int) -> Run:
    """Where a round of pruning is trained: the last one in the run itself."""
    if number == config.prune_rounds:
        return run
    (path := run.rounds / str(number)).mkdir(parents=True, exist_ok=True)
    return Run(path)


def _of_round(run: Run | None, config: AdaptConfig, number: int) -> AdaptConfig:
    """What a round trains: what the one before, a run of its own, left over of the same share of the weights."""
    before = None if number == 1 or run is None else str(_round(run, config, number - 1))
    last = number == config.prune_rounds
    return replace(
        config,
        keep=config.keep ** (number / config.prune_rounds),
        prune_rounds=config.prune_rounds if last else 1,
        pruned_by=before,
        report=config.report and last,
    )


def _score(run: Run, config: AdaptConfig, data: Any) -> None:
    """What a round's encoder is worth, for the report's curve."""
    tasks = ["knn"] if "knn" in possible_tasks(data) else ["stability"]
    settings: dict[str, Any] = {"image_size": config.image_size, "seed": config.seed, "limit": config.report_images}
    write_json(run.scores_file, score(load_encoder(run.path), data, tasks=tasks, **settings))
