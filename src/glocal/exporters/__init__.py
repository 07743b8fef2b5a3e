"""An encoder in the formats people already use, and its embeddings in the tables they already read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glocal.errors import UsageError, did_you_mean
from glocal.exporters.embed import Embeddings, embed_source

if TYPE_CHECKING:
    from glocal.backbones import Backbone

__all__ = ["FORMATS", "Embeddings", "embed_source", "export_encoder"]

FORMATS = "timm", "onnx", "torch-export", "safetensors"


def export_encoder(
    backbone: Backbone,
    *,
    format: str,
    out: str | Path,
    image_size: int | None = None,
    native: bool = False,
    about: Mapping[str, str] | None = None,
    head: Any = None,
) -> Path:
    """Writes the encoder in one of `FORMATS`, completely or not at all.

    Args:
        backbone: the encoder.
        format: "timm", a folder for timm.create_model('local-dir:...'); "onnx", an .onnx file; "torch-export", a .pt2
            file; "safetensors", a folder for glocal.load.
        out: the folder or file. An earlier export is replaced, nothing else is.
        image_size: pixels per side that the "onnx" and "torch-export" graphs are captured at.
        native: whether what is written has to take images of all shapes.
        about: rows for the "timm" model card, e.g. {"Method": "VICRegL", "Images": "12,345"}.
        head: what was fine-tuned on it, for "onnx" and "torch-export".

    Returns:
        What was written.

    Raises:
        UsageError: if the format is unknown, `out` is taken, or the format cannot express the encoder.
    """
    out = Path(out).expanduser()
    if native and not (backbone.reads == "images" and backbone.traits.any_size):
        raise UsageError(f"{backbone.name} takes images of one size only: leave out --native")
    if format == "timm":
        from glocal.exporters.timm_folder import export_timm

        export_timm(backbone, out, about=about)
    elif format in ("onnx", "torch-export"):
        from glocal.exporters.graph import export_onnx, export_torch

        if hasattr(head, "choose"):
            raise UsageError(f"what it learnt of names is no part of --format {format}; 'timm' holds the encoder")
        write = export_onnx if format == "onnx" else export_torch
        write(backbone, out, image_size=image_size, native=native, head=head)
    elif format == "safetensors":
        from glocal.backbones import save_encoder
        from glocal.exporters.staging import staged_folder

        with staged_folder(out) as folder:
            save_encoder(backbone, folder)
    else:
        hint = did_you_mean(format, FORMATS, otherwise=f"; choose one of {', '.join(FORMATS)}")
        raise UsageError(f"unknown export format '{format}'{hint}")
    return out
