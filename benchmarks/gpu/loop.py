"""Glocal's own training loop, small, watched step by step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from unittest import mock

import torch

import glocal
from glocal.training.loop import _Training


class Enough(Exception):
    """Ends a training of which enough was seen."""


def trained(data: str, watch: Callable[[Callable[[], Any], int], Any], **options: Any) -> None:
    """`glocal.pretrain` of which every step is done by `watch(step, number)`, from 0; `Enough` ends it."""
    whole = _Training.step

    def step(self: Any, batches: Any) -> Any:
        return watch(lambda: whole(self, batches), self.at.step)

    fixed: dict[str, Any] = {"report": False, "quiet": True, "monitor_every": 10_000, "cache": False, "compile": False}
    with tempfile.TemporaryDirectory() as folder, mock.patch.object(_Training, "step", step), suppress(Enough):
        glocal.pretrain(data, out=str(Path(folder, "run")), **{**fixed, **options})


@contextmanager
def exact_float32() -> Iterator[None]:
    """Products and convolutions in float32, not in TF32, whose ten bits hide what is to be seen."""
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("highest")
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def apart(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Distance over the norm of the second, in float64 on the CPU."""
    a, b = (x.detach().cpu().double() for x in (ours, theirs))
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
