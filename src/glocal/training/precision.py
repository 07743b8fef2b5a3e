"""Precision of a run, for Fabric."""

from __future__ import annotations

from typing import Any

import torch
from lightning.fabric.plugins.precision import MixedPrecision


class Autocast(MixedPrecision):
    """Automatic mixed precision that leaves the batch as it is.

    Fabric's casts every number that goes into a module, not only pixels: also a view's map home. Among coordinates of
    some hundred pixels bfloat16 has steps of 1 or 2.
    """

    def convert_input(self, data: Any) -> Any:
        """What a method receives: unchanged; autocast casts where an operation wants it."""
        return data


def precision_arguments(precision: str, accelerator: str) -> dict[str, Any]:
    """The arguments of `Fabric` for "bf16-mixed", "16-mixed" or a precision without autocast."""
    if precision not in ("bf16-mixed", "16-mixed"):
        return {"precision": precision}
    if accelerator == "auto":
        accelerator = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = accelerator if accelerator in ("cpu", "mps") else "cuda"
    return {"plugins": Autocast(precision, device)}  # type: ignore[arg-type]
