"""torch.export, for PyTorch without this package."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from glocal.backbones import Backbone
from glocal.exporters.graph import Difference, compare, description, quiet, trace
from glocal.exporters.staging import MARK, staged_file


def export_torch(backbone: Backbone, out: str | Path, *, image_size: int | None = None) -> Difference:
    """Writes a `.pt2` program: `torch.export.load(out).module()(image)` gives `(pooled, dense)`, as the ONNX file does.

    Args:
        backbone: the encoder.
        out: a path ending in `.pt2`. An earlier export is replaced, any other file is not.
        image_size: pixels per side the program is captured at; the backbone's own by default.

    Returns:
        The largest absolute difference between the reloaded program and PyTorch.

    Raises:
        UsageError: if `out` will not do or torch.export cannot capture the encoder.
        RuntimeError: if the reloaded program disagrees with PyTorch; nothing is written then.
    """
    with staged_file(Path(out), ".pt2") as path:
        traced = trace(backbone, image_size or backbone.image_size)
        with quiet():
            torch.export.save(traced.program, path, extra_files={f"{MARK}.json": json.dumps(description(traced))})
            module = torch.export.load(path).module()
        return compare(traced, module, f"{out} reloaded")
