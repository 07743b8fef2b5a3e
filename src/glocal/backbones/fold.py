"""Parametrised weights (`torch.nn.utils.parametrize`) made plain again."""

from typing import Any, cast

from torch import Tensor, nn
from torch.nn.utils import parametrize


class Folding(nn.Module):
    """A parametrisation of ours, weight -> weight, that is for training only."""


class Product(Folding):
    """Weights (n, ...) behind which `layers` square matrices stand: W = W_l···W_1·V."""

    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))

    def forward(self, weight: Tensor) -> Tensor:
        for layer in self.layers:
            weight = cast(Tensor, layer.weight) @ weight
        return weight


def fold(module: nn.Module) -> None:
    """Give plain weights again: names, their order, class and features are those of any other network.

    A hook that a module was given for training only, its handle being `until_folded`, goes.

    Which parameters are frozen stays as it is. Copies of the network stay adapted, unlike with torch's own
    `remove_parametrizations`, which changes a class that they share.
    """
    for part in module.modules():
        if handle := part.__dict__.pop("until_folded", None):
            handle.remove()
    adapted: list[Any] = [m for m in module.modules() if parametrize.is_parametrized(m, "weight")]
    for layer in adapted:
        if isinstance(layer.parametrizations.weight[0], Folding):
            weight = layer.parametrizations.weight.original
            weight.data = layer.weight.detach()
            layer.__class__ = type(layer).__bases__[0]
            del layer.parametrizations
            others = dict(layer._parameters)
            layer._parameters.clear()
            layer.register_parameter("weight", weight)  # first, as it was
            layer._parameters.update(others)
