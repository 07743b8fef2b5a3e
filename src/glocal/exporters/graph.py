"""The encoder as one self-contained graph, RGB in [0, 1] in, one vector per image and one per location out: a file for
ONNX or torch.export."""

import contextlib
import copy
import io
import json
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.evaluation.extract import CROP_PCT
from glocal.exporters.staging import MARK, staged_file
from glocal.features import Features

OPSET = 18
OUTPUTS = "pooled", "dense"
TOLERANCE = 1e-3


class EncoderGraph(nn.Module):
    """A backbone with its normalisation built in, since forgetting it is the classic mistake with an exported model.

    With a head, the logits of `head.classes` are a third output.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, head: Any = None) -> None:
        super().__init__()
        self.backbone, self.head = backbone, head
        self.outputs = [*OUTPUTS, "logits"] if head else [*OUTPUTS]
        self.register_buffer("mean", torch.tensor(backbone.mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(backbone.std).view(1, 3, 1, 1))

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """RGB (B, 3, h, w) float32 in [0, 1] to `pooled` (B, D) and `dense` (B, D, H, W), and what the head says."""
        pooled, dense = self.backbone.forward_tensors((image - self.mean) / self.std)
        if self.head is None:
            return pooled, dense
        tokens, grid = dense.flatten(2).transpose(1, 2), (dense.shape[2], dense.shape[3])
        return pooled, dense, self.head(Features(pooled, tokens, tokens.new_empty(0), grid))


@dataclass(frozen=True)
class Trace:
    """A captured encoder: `grid` is (H, W) of `dense` at `image_size`, `any_size` whether it takes other sizes."""

    graph: EncoderGraph
    program: ExportedProgram
    image_size: int
    grid: tuple[int, int]
    any_size: bool


def trace(backbone: Backbone, image_size: int, head: Any = None) -> Trace:
    """Captures the encoder on the CPU in float32, with any batch size, and any image size where it allows."""
    graph = EncoderGraph(copy.deepcopy(backbone), copy.deepcopy(head)).cpu().float().eval().requires_grad_(False)
    image = torch.zeros(2, 3, image_size, image_size)
    _, _, height, width = graph(image)[1].shape
    batch, sizes = {0: Dim.DYNAMIC}, {2: Dim.DYNAMIC, 3: Dim.DYNAMIC}
    with quiet():
        if _may_vary(backbone.model):
            with contextlib.suppress(Exception):  # the exporter refuses in many ways a size that only looks free
                program = torch.export.export(graph, (image,), dynamic_shapes=(batch | sizes,))
                torch.export.save(program, io.BytesIO())  # some size arithmetic is captured and cannot be written
                return Trace(graph, program, image_size, (height, width), any_size=True)
        try:
            program = torch.export.export(graph, (image,), dynamic_shapes=(batch,))
        except Exception as error:
            raise UsageError(f"torch.export cannot capture {backbone.name}: {first_line(error)}") from error
    return Trace(graph, program, image_size, (height, width), any_size=False)


def _may_vary(model: nn.Module) -> bool:
    """Whether free sizes are worth trying: with attention in windows, the exporter's symbolic algebra takes forever."""
    names = {type(module).__name__ for module in model.modules()}
    if any("Window" in name or "Partition" in name for name in names):
        return False
    return getattr(model, "dynamic_img_size", False) or "Attention" not in names  # MobileViT unfolds windows for it


def compare(traced: Trace, run: Callable[[Tensor], tuple[Tensor, ...]], what: str) -> dict[str, float]:
    """Runs a written file against PyTorch at batch sizes 1 and 3, and at an oblong larger image where sizes are free.

    Returns:
        The largest absolute difference of each output.

    Raises:
        RuntimeError: if an output differs by more than 1e-3 of its largest value, or in shape.
    """
    size, step = traced.image_size, traced.graph.backbone.stride
    shapes = [(1, size, size), (3, size, size)] + [(2, size + step, size + 2 * step)] * traced.any_size
    outputs = traced.graph.outputs
    worst = dict.fromkeys(outputs, 0.0)
    for batch, height, width in shapes:
        image = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            for name, ours, theirs in zip(outputs, traced.graph(image), run(image), strict=True):
                if (got := tuple(theirs.shape)) != tuple(ours.shape):
                    raise RuntimeError(f"{what}: '{name}' is {got} where PyTorch gives {tuple(ours.shape)}")
                gap = float((ours - theirs).abs().max())
                if not gap <= TOLERANCE * float(ours.abs().max()):
                    raise RuntimeError(f"{what}: '{name}' differs from PyTorch by {gap:.2g} on {tuple(image.shape)}")
                worst[name] = max(worst[name], gap)
    return worst


def _check_shapes(traced: Trace, native: bool) -> None:
    if native and not traced.any_size:
        name = traced.graph.backbone.name
        raise UsageError(f"{name} cannot be captured for photographs of all shapes: leave out --native")


def preparation(image_size: int, crop_pct: float | None) -> str:
    """How a photograph becomes the square that features and answers are meant for."""
    if crop_pct is None:
        return f"squeezed into {image_size} × {image_size}, bicubic, antialiased"
    short = round(image_size / crop_pct)
    return f"short side to {short}, bicubic, antialiased; the middle {image_size} × {image_size}"


def description(traced: Trace) -> dict[str, str]:
    """What a stranger needs to use the file, as string metadata."""
    backbone, size, head = traced.graph.backbone, traced.image_size, traced.graph.head
    return {
        "encoder": backbone.name,
        "glocal": version("glocal"),
        "input": "image: RGB float32 in [0, 1], (batch, 3, height, width); normalisation is inside",
        "image_size": str(size),
        "preparation": preparation(size, head.crop_pct if head else CROP_PCT),
        "any_image_size": json.dumps(traced.any_size),
        "pool": backbone.pool,
        "stride": str(backbone.stride),
        "cells": json.dumps(backbone.cells(traced.grid[0], traced.grid[1]).tolist()),
        **({"classes": json.dumps(head.classes)} if head else {}),
    }


def first_line(error: Exception) -> str:
    """What an exporter complains of, without its pages of advice."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences the exporters' progress lines, warnings and loggers; their errors still arrive as exceptions."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(before)


def export_onnx(
    backbone: Backbone, out: Path, *, image_size: int | None = None, native: bool = False, head: Any = None
) -> dict[str, float]:
    """Writes an ONNX file with input `image` and outputs `pooled` (B, D) and `dense` (B, D, H, W).

    Where a head is given, what it says is the output `logits`, (B, K) or (B, K, H, W), of the classes that the metadata
    names.

    `image` is RGB float32 (B, 3, h, w) in [0, 1], *not* normalised: mean and standard deviation are inside the graph.
    The batch is dynamic; height and width are too where the architecture allows (metadata `any_image_size`). The
    metadata also holds where each dense cell looks at `image_size`, at which the graph is captured: by default the
    backbone's own. The largest absolute difference between onnxruntime and PyTorch is returned for each output.

    Raises:
        UsageError: if the packages for ONNX are missing, `out` will not do or ONNX cannot express the encoder.
        RuntimeError: if onnxruntime disagrees with PyTorch by more than 1e-3 relative; nothing is written then.
    """
    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise UsageError(f"ONNX export needs {', '.join(missing)}: pip install 'glocal[onnx]'")
    with staged_file(out, ".onnx") as path:
        traced, said = trace(backbone, image_size or backbone.image_size, head), io.StringIO()
        outputs = traced.graph.outputs
        _check_shapes(traced, native)
        with quiet(), contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            try:
                program = torch.onnx.export(
                    traced.program, input_names=["image"], output_names=outputs, opset_version=OPSET, verbose=False
                )
            except Exception as error:
                what = f"{backbone.name} cannot be said in ONNX ({first_line(error)})"
                raise UsageError(f"{what}; export it as torch-export instead") from error
        assert program is not None
        program.model.producer_name = MARK
        _name_axes(program.model.graph)
        program.model.metadata_props.update(description(traced))
        program.save(path)
        return compare(traced, _onnxruntime(path, outputs), f"{out} in onnxruntime")


def _name_axes(graph: Any) -> None:
    """Calls the free axes batch, height and width, as the metadata does, where the exporter has symbols such as s40."""
    names = zip(graph.inputs[0].shape, ("batch", "channels", "height", "width"), strict=True)
    symbols = {str(axis.value): name for axis, name in names if not isinstance(axis, int)}
    word = re.compile(rf"\b({'|'.join(map(re.escape, symbols))})\b")
    values = [*graph.inputs, *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in values:
        for i, axis in enumerate(value.shape or ()):
            if not isinstance(axis, int) and axis.value:
                value.shape[i] = word.sub(lambda found: symbols[found[0]], axis.value)


def _onnxruntime(path: Path, outputs: list[str]) -> Callable[[Tensor], tuple[Tensor, ...]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.from_numpy(found) for found in session.run(outputs, {"image": image.numpy()}))

    return run


def export_torch(
    backbone: Backbone, out: Path, *, image_size: int | None = None, native: bool = False, head: Any = None
) -> dict[str, float]:
    """Writes a `.pt2` program: `torch.export.load(out).module()(image)` gives what the ONNX file does.

    It needs PyTorch and not this package. Arguments, result and errors are those of `export_onnx`.
    """
    with staged_file(out, ".pt2") as path:
        traced = trace(backbone, image_size or backbone.image_size, head)
        _check_shapes(traced, native)
        with quiet():
            torch.export.save(traced.program, path, extra_files={f"{MARK}.json": json.dumps(description(traced))})
            module = torch.export.load(path).module()
        return compare(traced, module, f"{out} reloaded")
