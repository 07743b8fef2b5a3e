"""What a timm model gives, learnt by passing one image through it, so that no architecture needs its own case."""

import math
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from glocal.backbones.cells import Step, evaluating, locate, trace
from glocal.errors import UsageError

Order = Literal["NCHW", "NHWC", "NLC"]


@dataclass(frozen=True)
class Layout:
    """How to read what `forward_features` returns.

    Attributes:
        order: dimensions of the output; "NLC" is a sequence of tokens.
        dim, stride, offset, norm: see `Backbone`.
        native_dim: channels of timm's own pooled feature.
        prefix: class and register tokens in front of the sequence.
        class_token: whether the first of them is a class token.
        head_norm: name of the normalisation that timm applies after pooling, or None.
    """

    order: Order
    dim: int
    native_dim: int
    stride: int
    offset: float
    prefix: int
    class_token: bool
    head_norm: str | None
    norm: Literal["batch", "layer"]


@dataclass(frozen=True)
class Earlier:
    """A map in the middle of a network: the module that gives it, by its name; the rest as in `Layout`."""

    module: str
    dim: int
    stride: int
    offset: float


def earlier_map(model: Any, order: Order, name: str, image_size: int) -> Earlier | None:
    """The map of the last block before the last halving, by timm's `feature_info`; None of networks without stages."""
    stages = [stage["module"] for stage in getattr(model, "feature_info", None) or ()]
    if order != "NCHW" or len(stages) < 2:
        return None
    output, steps, size = _probe(model, name, image_size, stages[-2])
    return Earlier(stages[-2], output.shape[1], *locate(steps, size, output.shape[2]))


def learn_layout(model: Any, name: str, image_size: int) -> Layout:
    """Pass one image through a timm model and look at what comes out; refuse what gives no feature per location."""
    output, steps, size = _probe(model, name, image_size)
    order: Order = "NLC"
    prefix = side = 0
    if isinstance(output, Tensor) and output.ndim == 4:
        order = "NCHW" if output.shape[2] == output.shape[3] else "NHWC"  # the image is square
        side = output.shape[2]
    elif isinstance(output, Tensor) and output.ndim == 3:
        prefix = getattr(model, "num_prefix_tokens", 0)
        side = math.isqrt(output.shape[1] - prefix)
    if side < 2 or (order == "NLC" and side**2 != output.shape[1] - prefix):
        raise UsageError(f"{name} does not give one feature per location; choose another backbone")
    dim = output.shape[1 if order == "NCHW" else -1]
    stride, offset = locate(steps, size, side)
    with evaluating(model):
        native_dim = model.forward_head(output, pre_logits=True).shape[-1]
    class_token = prefix > 0 and getattr(model, "cls_token", None) is not None
    head_norm, norm = _head_norm(model, dim), _norm_kind(model)
    return Layout(order, dim, native_dim, stride, offset, prefix, class_token, head_norm, norm)


def _probe(model: Any, name: str, image_size: int, until: str | None = None) -> tuple[Any, list[Step], int]:
    """What `trace` gives, and the side of its image: small where the model takes any size, else the model's own."""
    info = getattr(model, "feature_info", None)
    small = 4 * info[-1]["reduction"] if info else image_size
    for size in (small, image_size):
        try:
            return *trace(model, torch.zeros(1, 3, size, size), until), size
        except (AssertionError, RuntimeError) as error:
            refusal = error
    raise UsageError(f"{name} does not take {image_size}×{image_size} images: {refusal}") from refusal


def _norm_kind(model: nn.Module) -> Literal["batch", "layer"]:
    """Of most of its normalisations.

    Of a network without any: "batch" where it has more convolutions, into which that can be folded, than linear layers.
    """
    # Blocks such as ConvNormAct carry "Norm" in their name but no scale of their own.
    scales = [(type(module).__name__, getattr(module, "weight", None)) for module in model.modules()]
    names = [name for name, weight in scales if "Norm" in name and weight is not None]
    if not names:
        convolutions, linear = (sum(isinstance(m, kind) for m in model.modules()) for kind in (nn.Conv2d, nn.Linear))
        return "batch" if convolutions > linear else "layer"
    return "batch" if 2 * sum("BatchNorm" in name for name in names) > len(names) else "layer"


def _head_norm(model: nn.Module, dim: int) -> str | None:
    for name in ("fc_norm", "head.norm"):
        weight = getattr(dict(model.named_modules()).get(name), "weight", None)
        if weight is not None and weight.shape == (dim,):  # else it follows a layer that widens
            return name
    return None
