"""What every encoder is compared with, everywhere: the weights that its training started from, and raw pixels."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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


def baselines(encoder: Backbone, *, seed: int = 0) -> dict[str, nn.Module]:
    """What to compare with: "start" (`start_of`), unless its weights are no longer to be had, and "pixels"."""
    pixels = Pixels(stride=encoder.stride, image_size=encoder.image_size).to(device_of(encoder))
    try:
        return {"start": start_of(encoder, seed=seed), "pixels": pixels}
    except (UsageError, OSError):
        return {"pixels": pixels}


def score_with_baselines(encoder: Backbone, data: Any, **settings: Any) -> dict[str, Any]:
    """`score`, with those of the `baselines` beside it; its meta["start"] says what the start is, or why it is not."""
    result, arms = score(encoder, data, **settings), baselines(encoder, seed=settings.get("seed", 0))
    result["meta"]["start"] = start_words(encoder) + ("" if "start" in arms else ", no longer to be had")
    return result | {name: score(arm, data, **settings) for name, arm in arms.items()}
