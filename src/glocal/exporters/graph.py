"""The encoder as one self-contained graph: RGB in [0, 1] in, one vector per image and one per location out."""

from __future__ import annotations

import copy
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from glocal.backbones import Backbone
from glocal.errors import UsageError

OUTPUTS = ("pooled", "dense")
TOLERANCE = 1e-3


class EncoderGraph(nn.Module):
    """A backbone with its normalisation built in, since forgetting it is the classic mistake with an exported model."""

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.backbone = backbone
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """RGB (B, 3, h, w) float32 in [0, 1] to `pooled` (B, D) and `dense` (B, D, H, W)."""
        return self.backbone.forward_tensors((image - self.mean) / self.std)


@dataclass(frozen=True)
class Trace:
    """A captured encoder: `grid` is (H, W) of `dense` at `image_size`, `any_size` whether it takes other sizes."""

    graph: EncoderGraph
    program: ExportedProgram
    image_size: int
    grid: tuple[int, int]
    any_size: bool


@dataclass(frozen=True)
class Difference:
    """The largest absolute difference between a written file and PyTorch, over every shape that was tried."""

    pooled: float
    dense: float


def trace(backbone: Backbone, image_size: int) -> Trace:
    """Captures the encoder on the CPU in float32, with any batch size, and any image size where it allows.

    Raises:
        UsageError: if the encoder does not take this size, or torch.export cannot capture it.
    """
    graph = EncoderGraph(copy.deepcopy(backbone)).cpu().float().eval().requires_grad_(False)
    image = torch.zeros(2, 3, image_size, image_size)
    dense = graph(image)[1]
    program, any_size = _capture(graph, image)
    return Trace(graph, program, image_size, (dense.shape[2], dense.shape[3]), any_size)


def _capture(graph: EncoderGraph, image: Tensor) -> tuple[ExportedProgram, bool]:
    batch, sizes = {0: Dim.DYNAMIC}, {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with quiet():
        if _may_vary(graph.backbone.model):
            with suppress(Exception):  # the exporter refuses in many ways a size that only looks free
                program = torch.export.export(graph, (image,), dynamic_shapes=(batch | sizes,))
                torch.export.save(program, io.BytesIO())  # some size arithmetic is captured and cannot be written
                return program, True
        try:
            return torch.export.export(graph, (image,), dynamic_shapes=(batch,)), False
        except Exception as error:
            raise UsageError(f"torch.export cannot capture {graph.backbone.name}: {first_line(error)}") from error


def _may_vary(model: nn.Module) -> bool:
    """Whether free sizes are worth trying: with attention in windows, the exporter's symbolic algebra takes forever."""
    names = {type(module).__name__ for module in model.modules()}
    if any("Window" in name or "Partition" in name for name in names):
        return False
    return getattr(model, "dynamic_img_size", False) or "Attention" not in names  # MobileViT unfolds windows for it


def compare(traced: Trace, run: Callable[[Tensor], tuple[Tensor, Tensor]], what: str) -> Difference:
    """Runs a written file against PyTorch at batch sizes 1 and 3, and at an oblong larger image where sizes are free.

    Raises:
        RuntimeError: if an output differs by more than 1e-3 of its largest value, or in shape.
    """
    size, step = traced.image_size, traced.graph.backbone.stride
    shapes = [(1, size, size), (3, size, size)] + [(2, size + step, size + 2 * step)] * traced.any_size
    worst = dict.fromkeys(OUTPUTS, 0.0)
    for batch, height, width in shapes:
        image = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, ours, theirs in zip(OUTPUTS, traced.graph(image), run(image), strict=True):
                if ours.shape != theirs.shape:
                    raise RuntimeError(
                        f"{what}: '{name}' is {tuple(theirs.shape)} where PyTorch gives {tuple(ours.shape)}"
                    )
                gap = float((ours - theirs).abs().max())
                if not gap <= TOLERANCE * float(ours.abs().max()):
                    raise RuntimeError(f"{what}: '{name}' differs from PyTorch by {gap:.2g} on {tuple(image.shape)}")
                worst[name] = max(worst[name], gap)
    return Difference(**worst)


def description(traced: Trace) -> dict[str, str]:
    """What a stranger needs to use the file, as string metadata."""
    backbone, size = traced.graph.backbone, traced.image_size
    return {
        "encoder": backbone.name,
        "glocal": version("glocal"),
        "input": "image: RGB float32 in [0, 1], (batch, 3, height, width); normalisation is inside",
        "image_size": str(size),
        "any_image_size": json.dumps(traced.any_size),
        "pool": backbone.pool,
        "stride": str(backbone.stride),
        "cells": json.dumps(backbone.cells(*traced.grid).tolist()),
    }


def first_line(error: Exception) -> str:
    """What an exporter complains of, without its pages of advice."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporters' progress lines, warnings and loggers; their errors still arrive as exceptions."""
    loggers = [logging.getLogger(name) for name in ("torch", "torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
