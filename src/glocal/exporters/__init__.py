"""An encoder in the formats people already use, and its embeddings in the tables they already read."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from glocal.errors import UsageError
from glocal.exporters.embed import Embeddings, embed_source

if TYPE_CHECKING:
    from glocal.backbones import Backbone

__all__ = ["FORMATS", "Embeddings", "embed_source", "export_encoder"]

FORMATS = {
    "timm": "a folder for timm.create_model('local-dir:...')",
    "onnx": "an .onnx file",
    "torch-export": "a .pt2 file",
    "safetensors": "encoder.safetensors and encoder.json, for glocal.load",
}


def export_encoder(
    backbone: Backbone,
    *,
    format: str,
    out: str | Path,
    image_size: int | None = None,
    about: Mapping[str, str] | None = None,
) -> Path:
    """Writes the encoder in one of `FORMATS`, completely or not at all.

    Args:
        backbone: the encoder.
        format: "timm", "onnx", "torch-export" or "safetensors".
        out: the folder ("timm", "safetensors") or file to write. An earlier export is replaced, nothing else is.
        image_size: pixels per side that the "onnx" and "torch-export" graphs are captured at.
        about: rows for the "timm" model card, e.g. {"Method": "VICRegL", "Images": "12,345"}.

    Returns:
        What was written.

    Raises:
        UsageError: if the format is unknown, `out` is taken, or the format cannot express the encoder.
    """
    out = Path(out).expanduser()
    if format == "timm":
        from glocal.exporters.timm_folder import export_timm

        export_timm(backbone, out, about=about)
    elif format == "onnx":
        from glocal.exporters.onnx import export_onnx

        export_onnx(backbone, out, image_size=image_size)
    elif format == "torch-export":
        from glocal.exporters.torch_export import export_torch

        export_torch(backbone, out, image_size=image_size)
    elif format == "safetensors":
        from glocal.backbones import save_encoder
        from glocal.exporters.staging import staged_folder

        with staged_folder(out) as folder:
            save_encoder(backbone, folder)
    else:
        nearest = get_close_matches(format, FORMATS, n=1, cutoff=0.4)
        hint = f"did you mean '{nearest[0]}'?" if nearest else "choose one of " + ", ".join(FORMATS)
        raise UsageError(f"unknown export format '{format}'; {hint}")
    return out
