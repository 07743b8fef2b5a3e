"""Projectors, the small networks between a backbone's features and a loss, and the head of DINO and LOCA."""

import itertools
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.heads.batch_norm import BatchNorm
from glocal.losses.loss import upcast

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


class DINOHead(nn.Module):
    """Three GELU layers, L2 normalisation, and a linear layer whose rows have norm 1: (..., D) -> (..., K) logits.

    DINO (Caron et al. 2021), appendix C: the weight-normalised last layer with its gain fixed at 1, and no
    normalisation, or BatchNorm before each GELU.

    Args:
        dim: D.
        hidden: width of the two hidden layers.
        bottleneck: width of the normalised vectors.
        outputs: K.
        norm: of the hidden layers.
    """

    def __init__(
        self,
        dim: int,
        *,
        hidden: int = 2048,
        bottleneck: int = 256,
        outputs: int = 65536,
        norm: Literal["batch", "none"] = "none",
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for width in (dim, hidden):
            layers += [nn.Linear(width, hidden), *([BatchNorm(hidden)] if norm == "batch" else []), nn.GELU()]
        self.mlp = _Projector(*layers, nn.Linear(hidden, bottleneck))
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)
        self.last = nn.Parameter(torch.empty(outputs, bottleneck))
        bound = bottleneck**-0.5  # as nn.Linear does; the norm sets how fast the directions turn
        nn.init.uniform_(self.last, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        # float32: the default eps of normalisation is nothing in half precision
        return F.linear(F.normalize(upcast(self.mlp(x)), dim=-1), F.normalize(self.last, dim=-1))
