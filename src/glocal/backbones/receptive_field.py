"""What a cell of a convolutional network can see, computed from its modules, and what it does see, measured."""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from glocal.backbones import Backbone
from glocal.backbones.cells import evaluating, spatial_modules, step_of
from glocal.errors import UsageError


@dataclass(frozen=True)
class ReceptiveField:
    """The square of pixels on which one cell depends. All in pixels.

    Attributes:
        size: side of the square.
        stride: from the square of one cell to that of the next.
        offset: continuous coordinate of the centre of cell 0's square, as in `Backbone.cells`. The square of cell k
            covers [offset + stride·k - size/2, offset + stride·k + size/2); what lies outside the image is padding.
    """

    size: int
    stride: int
    offset: float


def receptive_field(backbone: Backbone) -> ReceptiveField:
    """The exact receptive field of the last map, computed without running the network.

    The network is traced to a graph; along each edge, a convolution or pooling of kernel k, dilation δ, stride s and
    padding p takes the span [a, b) that cell 0 sees at jump j to [a - p·j, b + ((k - 1)·δ - p)·j) and j to j·s: the
    size grows by (k - 1)·δ·j (Araujo et al. 2019). Where branches meet, the span is what either of them sees.

    Args:
        backbone: a convolutional one.

    Raises:
        UsageError: where an operation sees the whole image (attention, squeeze-and-excitation, GroupNorm) or cannot be
            followed.
    """
    body = _Body(backbone.model)
    try:
        with evaluating(body):
            tracer = _Tracer()
            graph = fx.GraphModule(body, tracer.trace(body))
        span = _Follow(graph).run(_Span(0, 1, 1, channels_last=False))
    except (_Unfollowed, fx.proxy.TraceError, TypeError, AttributeError, RuntimeError) as error:
        reason = str(error).partition("\n")[0]
        raise UsageError(
            f"{backbone.name} has no receptive field that can be computed: {reason}; choose a convolutional backbone"
        ) from error
    return ReceptiveField(span.stop - span.start, span.jump, (span.start + span.stop) / 2)


@dataclass(frozen=True)
class _Span:
    """Cell k sees the pixels [start + jump·k, stop + jump·k)."""

    start: int
    stop: int
    jump: int
    channels_last: bool


class _Unfollowed(Exception):
    pass


class _Body(nn.Module):
    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model.forward_features(x)


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return isinstance(module, spatial_modules()) or _is_pointwise(module) or super().is_leaf_module(module, name)


def _is_pointwise(module: nn.Module) -> bool:
    """Whether each location goes its own way through it, in eval mode."""
    local = (nn.BatchNorm2d, nn.LayerNorm, nn.Linear, nn.Identity, nn.Dropout, nn.Dropout2d)
    kind = type(module)
    activation = ".activation" in kind.__module__ and kind not in (nn.MultiheadAttention, nn.Softmax, nn.Softmax2d)
    return isinstance(module, local) or activation or kind.__name__ == "DropPath"


class _Follow(fx.Interpreter):
    """Runs a graph on spans in place of tensors."""

    def call_module(self, target: Any, args: tuple, kwargs: dict) -> Any:
        module: Any = self.fetch_attr(target)
        span: _Span = args[0]
        if isinstance(module, spatial_modules()):
            return _advance(span, module, target)
        # These work on the last dimension: behind a permutation the channels, else the cells of a row.
        last = isinstance(module, (nn.Linear, nn.LayerNorm)) and not type(module).__name__.endswith("2d")
        if _is_pointwise(module) and (span.channels_last or not last):
            return span
        raise _Unfollowed(f"{target.removeprefix('model.')} ({type(module).__name__}) mixes more than neighbours")

    def call_function(self, target: Any, args: tuple, kwargs: dict) -> Any:
        return self._apply(target.__name__, args, super().call_function, target, kwargs)

    def call_method(self, target: Any, args: tuple, kwargs: dict) -> Any:
        return self._apply(target, args, super().call_method, target, kwargs)

    def _apply(self, name: str, args: tuple, run: Any, target: Any, kwargs: dict) -> Any:
        flat = [item for arg in args for item in (arg if isinstance(arg, (list, tuple)) else (arg,))]
        spans = [item for item in flat if isinstance(item, _Span)]
        if not spans:
            return run(target, args, kwargs)
        if name in _ELEMENTWISE:
            return _union(spans)
        if name == "permute" and flat[1:] in ([0, 2, 3, 1], [0, 3, 1, 2]):
            return _Span(spans[0].start, spans[0].stop, spans[0].jump, channels_last=flat[1:] == [0, 2, 3, 1])
        if name == operator.getitem.__name__ and _crops_the_end(args[1]):
            return spans[0]
        raise _Unfollowed(f"its operation '{name}' mixes more than neighbours, or is unknown")


_ELEMENTWISE = {
    *("add", "iadd", "add_", "mul", "imul", "mul_", "sub", "cat", "contiguous", "clone", "relu", "relu_", "gelu"),
    *("silu", "sigmoid", "hardtanh", "dropout"),
}


def _advance(span: _Span, module: nn.Module, name: str) -> _Span:
    """Through one convolution or pooling. "Same" padding is that of images divisible by the stride."""
    if span.channels_last:
        raise _Unfollowed(f"{name.removeprefix('model.')} convolves over channels")
    stride = getattr(module, "stride", 1)
    step = step_of(module, stride[-1] if isinstance(stride, (tuple, list)) else stride, 1)
    start = span.start - step.padding * span.jump
    stop = span.stop + (step.reach - 1 - step.padding) * span.jump
    return _Span(start, stop, span.jump * step.stride, span.channels_last)


def _union(spans: list[_Span]) -> _Span:
    if len({(span.jump, span.channels_last) for span in spans}) > 1:
        raise _Unfollowed("branches of different strides meet")
    first = spans[0]
    return _Span(min(s.start for s in spans), max(s.stop for s in spans), first.jump, first.channels_last)


def _crops_the_end(index: Any) -> bool:
    """Whether cell 0 stays where it is: no slice has a start or a step."""
    return isinstance(index, tuple) and all(isinstance(i, slice) and not i.start and i.step is None for i in index)


@dataclass(frozen=True)
class EffectiveField:
    """How strongly a cell depends on each pixel.

    Attributes:
        map: (h, w) float64, non-negative, with sum 1.
        center: (x, y) that the cell looks at, in pixels.
    """

    map: Tensor
    center: tuple[float, float]

    def radius(self, share: float) -> float:
        """Radius in pixels of the smallest disc about `center` whose pixels hold this share of the whole."""
        y, x = (torch.arange(n, dtype=torch.float64) + 0.5 for n in self.map.shape)
        distance = torch.hypot(x[None, :] - self.center[0], y[:, None] - self.center[1]).flatten()
        near, order = distance.sort()
        held = self.map.flatten()[order].cumsum(0)
        return float(near[min(int((held < share).sum()), len(near) - 1)])


def effective_receptive_field(backbone: Backbone, images: Tensor, *, channels: int = 32) -> EffectiveField:
    """Mean of |∂h_c/∂pixel| over images, channels c of the central cell, and colours (Luo et al. 2016).

    Args:
        backbone: any with a dense map; used in eval mode.
        images: (B, 3, h, w) normalised. Larger than the receptive field, or the border cuts it.
        channels: how many, evenly spread over the D there are; the time is proportional to it.

    Raises:
        UsageError: if no image or channel is wanted, or the map does not depend on the pixels.
    """
    if channels < 1:
        raise UsageError(f"channels is {channels}; measure an effective receptive field on one at least")
    if not len(images):
        raise UsageError("no image to measure an effective receptive field on; give at least one")
    modes = {module: module.training for module in backbone.modules()}
    backbone.eval()
    try:
        pixels = images.detach().requires_grad_()
        with torch.enable_grad():
            dense = backbone.forward_tensors(pixels)[1]
            row, column = dense.shape[2] // 2, dense.shape[3] // 2
            cell = dense[:, :, row, column]
            total = torch.zeros(images.shape[2:], dtype=torch.float64, device=images.device)
            for c in torch.linspace(0, cell.shape[1] - 1, min(channels, cell.shape[1])).round().long().tolist():
                (gradient,) = torch.autograd.grad(cell[:, c].sum(), pixels, retain_graph=True)
                total += gradient.abs().sum((0, 1)).double()
    finally:
        for module, mode in modes.items():
            module.training = mode
    if not (total.isfinite().all() and total.sum() > 0):
        raise UsageError(f"the central cell of {backbone.name} does not depend on the pixels, or not finitely")
    x, y = backbone.cells(*dense.shape[2:])[row, column].tolist()
    return EffectiveField((total / total.sum()).cpu(), (x, y))
