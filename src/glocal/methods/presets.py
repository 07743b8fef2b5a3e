"""Presets: options of a method by name, as functions of the batch size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Preset = Callable[[int], dict[str, Any]]
"""Batch size, over all processes -> options of a method's constructor."""


def width_for(batch: int) -> int:
    """A width of embeddings that a batch can decorrelate: eight times the batch, from 256 to the published 8192.

    The covariance of B samples has rank B − 1, so with unit variances Σ_{i≠j} C²_ij / D is at least D/(B − 1) − 1,
    whatever the encoder does. At the published 8192 and a batch of 64 that floor (129 a view) is far above the 25 that
    the variance term can pay: VICReg's optimum is then a shrunken embedding, of standard deviation .29. At 8·B: .76.
    """
    width = 256
    while width < min(8192, 8 * batch):
        width *= 2
    return width
