"""What every encoder is compared with, everywhere: the weights that its training started from, and raw pixels."""

from __future__ import annotations

from typing import Any

import torch

from glocal.backbones import Backbone, build_backbone
from glocal.errors import UsageError
from glocal.evaluation.evaluate import evaluate_encoder, possible_tasks
from glocal.evaluation.extract import device_of
from glocal.evaluation.pixels import Pixels
from glocal.random import derive


def start_of(encoder: Backbone, *, seed: int = 0, random: bool = False) -> Backbone:
    """The same architecture and pooling with the weights that training started from, in evaluation mode.

    Args:
        encoder: trained.
        seed: of a random initialisation: of the run's seed it is the very one that the run had.
        random: a random initialisation also where training went on from pretrained weights.

    Raises:
        UsageError: if the pretrained weights are no longer to be had.
    """
    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        start = build_backbone(**encoder.config | ({"pretrained": False} if random else {}))
    return start.to(device_of(encoder)).eval()


def start_words(encoder: Backbone) -> str:
    """What `start_of` is, in words."""
    if isinstance(encoder.pretrained, str):
        return encoder.pretrained
    return f"timm's released weights of {encoder.name}" if encoder.pretrained else "random initialisation"


def score(encoder: Any, data: Any, *, tasks: list[str] | None = None, **settings: Any) -> dict[str, Any]:
    """Scores of one encoder on all tasks asked for, or on all that the data allows; settings of `evaluate_encoder`."""
    return evaluate_encoder(encoder, data, tasks=tasks or possible_tasks(data), **settings)


def score_with_baselines(encoder: Backbone, data: Any, **settings: Any) -> dict[str, Any]:
    """`score`, with those of "start" and "pixels" beside it; its meta["start"] says what the start is.

    Where the start's weights are no longer to be had, meta["start"] says so, and "start" is left out.
    """
    result, words = score(encoder, data, **settings), start_words(encoder)
    arms: dict[str, Any] = {"pixels": Pixels(stride=encoder.stride, image_size=encoder.image_size)}
    try:
        arms = {"start": start_of(encoder, seed=settings.get("seed", 0)), **arms}
    except UsageError as error:
        words = f"{words}, not compared with: {error}"
    result["meta"]["start"] = words
    return result | {name: score(arm, data, **settings) for name, arm in arms.items()}
