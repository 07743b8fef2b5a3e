"""What is different about a run that learns from texts."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from glocal import random
from glocal.backbones.text import learn_tokenizer
from glocal.config import PretrainConfig
from glocal.data import TextSource
from glocal.diagnostics.collapse import check_features
from glocal.distributed import on_first
from glocal.errors import UsageError
from glocal.evaluation.extract import frozen
from glocal.evaluation.rank import rankme
from glocal.methods import method_class
from glocal.training import Harmed
from glocal.training.online_eval import Look
from glocal.views import Batch

WATCHED = 200
"""Texts that are looked at during training."""


def check_reads(config: PretrainConfig, *, texts: bool) -> None:
    """Refuse a method of images for texts, and the other way round."""
    cls = method_class(config.method)
    if (cls.reads == "text") != texts:
        there = "these are texts: take --method contriever" if texts else "give text:PATH, a .jsonl or .txt file"
        raise UsageError(f"{cls.title} learns from {'texts' if cls.reads == 'text' else 'images'}; {there}")


def for_texts(config: PretrainConfig) -> PretrainConfig:
    """The configuration without what only images have."""
    if refused := [name for name in ("gentle", "guard", "lora") if getattr(config, name)]:
        raise UsageError(f"--{refused[0]} is for encoders of images: leave it out")
    return replace(config, cache=False, compile=False, gentle=False, guard=False, small_maps=[0, 0], workers=0)


def learnt_tokenizer(config: PretrainConfig, source: TextSource) -> str | None:
    """Word pieces learnt from the texts, the same on all processes; None where the run is given some."""
    if config.pretrained or config.options.get("tokenizer"):
        return None
    return on_first(lambda: learn_tokenizer(source.text(i) for i in range(len(source))))


def placed(batch: Batch, epoch: int, device: torch.device) -> Batch:
    """A batch of texts where it is wanted: nothing about it is left to do."""
    return batch.to(device)


def look_at_texts(source: TextSource, config: PretrainConfig) -> Callable[[Any, int], Look]:
    """A monitor: the effective rank of the features of some texts; `Harmed`, where they have collapsed."""
    chosen = np.sort(random.permutation(len(source), config.seed, "watch")[:WATCHED])
    texts = [text for i in chosen if (text := source.text(int(i))).strip()]

    def look(encoder: Any, epoch: int) -> Look:
        with frozen(encoder):
            pooled = encoder.read(texts)
        if (diagnosis := check_features(pooled, None)) is not None:
            raise Harmed(f"stopped after epoch {epoch}: {diagnosis.told(config.to_dict())}")
        return Look({"rank_pooled": rankme(pooled)})

    return look
