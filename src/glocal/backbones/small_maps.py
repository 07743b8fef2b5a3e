"""Convolutions over small maps on a CPU, as matrix products.

oneDNN goes through a map row by row, and rows of one to seven cells leave a matrix unit mostly idle. As products with
the unfolded input, whose rows are the cells of the whole batch, they are several times faster in bfloat16, above all
the gradients of the weights; in float32 only on the smallest maps. On larger maps unfolding costs more than it saves.
Up to which size it pays depends on the processor: `fastest_limits` measures it.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

CHANNELS = 256
"""Fewest input channels for which a product is ever faster."""
GAIN = 0.9
"""Most of the time of a convolution that its product may take."""

Pair = tuple[int, int]


class Limits(NamedTuple):
    """Up to how many cells of its output map a convolution is made of products: its weights' gradient, and the rest."""

    gradient: int = 9
    rest: int = 9


class SmallMaps(TorchFunctionMode):
    """Inside this context, convolutions on maps within the limits are products; all else is untouched."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.limits = limits

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and not kwargs and _gains(self.limits.gradient, *args):
            x, weight, _, stride, padding, dilation, _ = args
            return _Convolution.apply(x, weight, Window(weight.shape[2:], stride, padding, dilation), self.limits.rest)
        return func(*args, **(kwargs or {}))


class Window(NamedTuple):
    """How a convolution looks at its input: each value as (rows, columns)."""

    kernel: Pair
    stride: Pair
    padding: Pair
    dilation: Pair

    def cells(self, height: int, width: int) -> Pair:
        """Height and width of the output."""
        sides = zip((height, width), *self, strict=True)
        rows, columns = (
            (side + 2 * padding - dilation * (k - 1) - 1) // stride + 1 for side, k, stride, padding, dilation in sides
        )
        return rows, columns


def unfold(x: Tensor, window: Window) -> Tensor:
    """What each cell of the output of (B, C, h, w) sees: (B, h', w', *kernel, C)."""
    (top, left), cells = window.padding, window.cells(*x.shape[2:])
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, left, left, top, top)).contiguous()
    image, row, column, channel = x.stride()
    (down, right), (apart, beside) = window.stride, window.dilation
    return x.as_strided(
        (len(x), *cells, *window.kernel, x.shape[-1]),
        (image, row * down, column * right, row * apart, column * beside, channel),
    )


def fold(unfolded: Tensor, window: Window, height: int, width: int) -> Tensor:
    """The transpose of `unfold`: (B, C, h, w) in float32, each pixel the sum of what cells have of it."""
    batch, rows, columns, *kernel, channels = unfolded.shape
    (top, left), (down, right), (apart, beside) = window.padding, window.stride, window.dilation
    x = unfolded.new_zeros((batch, height + 2 * top, width + 2 * left, channels), dtype=torch.float32)
    for i in range(kernel[0]):
        for j in range(kernel[1]):
            y, z = i * apart, j * beside
            x[:, y : y + down * rows : down, z : z + right * columns : right] += unfolded[:, :, :, i, j]
    return x[:, top : top + height, left : left + width].permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, window: Window, most: int) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x, weight = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(x, weight)
        cells = window.cells(*x.shape[2:])
        ctx.window, ctx.convolve = window, cells[0] * cells[1] > most
        if ctx.convolve:
            return torch.conv2d(x, weight, None, *window[1:])
        # not as a view of a product, in which nothing could be changed in place
        out = torch.empty((len(x), len(weight), *cells), dtype=x.dtype, memory_format=torch.channels_last)
        rows = _rows(out.permute(0, 2, 3, 1), 3)
        torch.mm(_rows(unfold(x, window), 3), _rows(weight.permute(0, 2, 3, 1), 1).T, out=rows)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        out, channels, *kernel = weight.shape
        rows = _rows(grad.permute(0, 2, 3, 1), 3)
        by_weight = (rows.T @ _rows(unfold(x, ctx.window), 3)).view(out, *kernel, channels).permute(0, 3, 1, 2)
        by_x = None
        if ctx.needs_input_grad[0] and ctx.convolve:
            by_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, *ctx.window[1:], False, (0, 0), 1, (True, False, False)
            )[0]
        elif ctx.needs_input_grad[0]:
            seen = (rows @ _rows(weight.permute(0, 2, 3, 1), 1)).view(len(x), *grad.shape[2:], *kernel, channels)
            by_x = fold(seen, ctx.window, *x.shape[2:]).to(x.dtype)
        return by_x, by_weight, None, None


def _rows(x: Tensor, dims: int) -> Tensor:
    """A matrix with the first `dims` dimensions as rows, the others as columns."""
    return x.flatten(0, dims - 1).flatten(1)


def _gains(most: int, *args: Any) -> bool:
    """Whether this call of `conv2d` is one that is faster as products, on maps of at most so many cells."""
    if len(args) != 7 or not torch.is_grad_enabled():
        return False
    x, weight, bias, stride, padding, dilation, groups = args
    if x.device.type != "cpu" or x.ndim != 4 or not len(x) or bias is not None or groups != 1:
        return False
    if not all(isinstance(each, tuple) for each in (stride, padding, dilation)):  # "same", or one number for both sides
        return False
    if not weight.requires_grad or not CHANNELS <= weight.shape[1] == x.shape[1]:
        return False
    window = Window(weight.shape[2:], stride, padding, dilation)
    if window.kernel == window.stride == (1, 1):  # a product as it is
        return False
    rows, columns = window.cells(*x.shape[2:])
    return rows > 0 and columns > 0 and rows * columns <= most and _plain({x.dtype, weight.dtype})


def _plain(dtypes: set[torch.dtype]) -> bool:
    """Whether the convolution computes in bfloat16 by autocast, or in float32 without."""
    if not torch.is_autocast_enabled("cpu"):
        return dtypes == {torch.float32}
    return torch.get_autocast_dtype("cpu") == torch.bfloat16 and torch.float64 not in dtypes


def fastest_limits(*, bf16: bool) -> Limits:
    """Measure, in about two seconds and on as many threads as torch has, up to which maps products pay."""
    gradient = rest = 0
    with torch.random.fork_rng(devices=[]), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        layer = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False).to(memory_format=torch.channels_last)
        for side in range(1, 8):
            x = torch.randn(32, CHANNELS, side, side, requires_grad=True)
            ways = Limits(0, 0), Limits(side**2, 0), Limits(side**2, side**2)
            none, some, all_ = (min(times) for times in zip(*(_seconds(layer, x, ways) for _ in range(7)), strict=True))
            if min(some, all_) > GAIN * none:
                break
            gradient = side**2
            rest = side**2 if all_ <= GAIN * some and rest == (side - 1) ** 2 else rest
    return Limits(gradient, rest)


def _seconds(layer: nn.Module, x: Tensor, ways: Sequence[Limits]) -> list[float]:
    """Of a pass forward and backward in each way."""
    times = []
    for limits in ways:
        started = time.perf_counter()
        with SmallMaps(limits):
            y = layer(x)
        y.backward(torch.ones_like(y))
        times.append(time.perf_counter() - started)
    return times
