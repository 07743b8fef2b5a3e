"""ONNX, for runtimes without PyTorch."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.exporters.graph import OUTPUTS, Difference, compare, description, first_line, quiet, trace
from glocal.exporters.staging import MARK, staged_file

OPSET = 18


def export_onnx(backbone: Backbone, out: str | Path, *, image_size: int | None = None) -> Difference:
    """Writes an ONNX file with input `image` and outputs `pooled` (B, D) and `dense` (B, D, H, W).

    `image` is RGB float32 (B, 3, h, w) in [0, 1], *not* normalised: mean and standard deviation are inside the graph.
    The batch is dynamic; height and width are too where the architecture allows (metadata `any_image_size`). The
    metadata also holds where each dense cell looks at `image_size`.

    Args:
        backbone: the encoder.
        out: a path ending in `.onnx`. An earlier export is replaced, any other file is not.
        image_size: pixels per side the graph is captured at; the backbone's own by default.

    Returns:
        The largest absolute difference between onnxruntime and PyTorch.

    Raises:
        UsageError: if the packages for ONNX are missing, `out` will not do or ONNX cannot express the encoder.
        RuntimeError: if onnxruntime disagrees with PyTorch by more than 1e-3 relative; nothing is written then.
    """
    missing = [package for package in ("onnx", "onnxscript", "onnxruntime") if find_spec(package) is None]
    if missing:
        raise UsageError(f"ONNX export needs {', '.join(missing)}: pip install 'glocal[onnx]'")
    with staged_file(Path(out), ".onnx") as path:
        traced = trace(backbone, image_size or backbone.image_size)
        with quiet(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                program = torch.onnx.export(
                    traced.program,
                    input_names=["image"],
                    output_names=list(OUTPUTS),
                    opset_version=OPSET,
                    verbose=False,
                )
            except Exception as error:
                what = f"{backbone.name} cannot be said in ONNX ({first_line(error)})"
                raise UsageError(f"{what}; export it as torch-export instead") from error
        assert program is not None
        program.model.producer_name = MARK
        program.model.metadata_props.update(description(traced))
        program.save(path)
        return compare(traced, _session(path), f"{out} in onnxruntime")


def _session(path: Path) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: Tensor) -> tuple[Tensor, Tensor]:
        pooled, dense = session.run(list(OUTPUTS), {"image": image.numpy()})
        return torch.from_numpy(pooled), torch.from_numpy(dense)

    return run
