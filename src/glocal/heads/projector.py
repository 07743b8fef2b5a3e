"""Projectors: the small networks between a backbone's features and a loss."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.heads.batch_norm import BatchNorm

RELU = partial(nn.ReLU, inplace=True)


class _Projector(nn.Sequential):
    """Layers applied to the last dimension, whatever the leading ones are: (..., D) -> (..., D')."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.flatten(0, -2)).unflatten(0, x.shape[:-1])


def projector(
    dims: Sequence[int], norm: Literal["batch", "layer", "none"], activation: Callable[[], nn.Module] = RELU
) -> nn.Sequential:
    """A perceptron D-...-D': linear, normalisation, activation for each hidden layer, then a linear layer without bias.

    Args:
        dims: widths, from the input's to the output's, e.g. (512, 2048, 2048, 2048).
        norm: normalise each unit over the batch and all locations ("batch", for ResNets) or each vector over its units
            ("layer", for ConvNeXts and transformers), or not at all ("none").
        activation: makes one, for example `nn.GELU`.

    Returns:
        A module (..., D) -> (..., D').

    Raises:
        UsageError: on fewer than two widths or an unknown normalisation.
    """
    if len(dims) < 2:
        raise UsageError(f"projector widths {tuple(dims)}: give at least those of the input and of the output")
    normalise = {"batch": BatchNorm, "layer": nn.LayerNorm, "none": nn.Identity}.get(norm)
    if normalise is None:
        raise UsageError(f"projector norm {norm!r}: choose 'batch', 'layer' or 'none'")
    layers: list[nn.Module] = []
    *hidden, last = itertools.pairwise(dims)
    for before, after in hidden:
        # batch normalisation takes a unit's bias away again
        layers += [nn.Linear(before, after, bias=norm != "batch"), normalise(after), activation()]
    return _Projector(*layers, nn.Linear(*last, bias=False))
