"""Convolutions over small maps in bfloat16 on a CPU: the gradient of their weights as one matrix product.

oneDNN goes through a map row by row, and rows of three to seven cells leave a matrix unit mostly idle: of a ResNet-18
at 96 px the weights' gradients of the last two stages were 40 % of a training step. As a product of the output's
gradient with the unfolded input, whose rows are the cells of the whole batch, they take a third to an eighth of that
time. On larger maps unfolding costs more than it saves, and in float32 there is no such gap.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

CELLS = 49
"""Most cells of an output map for which the product was the faster one."""
CHANNELS = 128
"""Fewest input channels for which it was."""


class SmallMaps(TorchFunctionMode):
    """Inside this context, the convolutions that gain from it learn by `weight_gradient`; all else is untouched."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.conv2d and not kwargs and _gains(*args):
            x, weight, _, stride, padding, dilation, _ = args
            return _Convolution.apply(x, weight, stride, padding, dilation)
        return func(*args, **(kwargs or {}))


def weight_gradient(
    x: Tensor, grad: Tensor, kernel: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
    dilation: tuple[int, int],
) -> Tensor:  # fmt: skip
    """The gradient of a convolution's weight (O, C, *kernel) from its input (B, C, h, w) and its output's gradient
    (B, O, h', w'): a product over all cells of the batch.
    """
    x = F.pad(x.permute(0, 2, 3, 1), (0, 0, padding[1], padding[1], padding[0], padding[0])).contiguous()
    grad = grad.permute(0, 2, 3, 1)
    batch, height, width, out = grad.shape
    image, row, column, channel = x.stride()
    unfolded = x.as_strided(
        (batch, height, width, *kernel, x.shape[-1]),
        (image, row * stride[0], column * stride[1], row * dilation[0], column * dilation[1], channel),
    )
    cells = batch * height * width
    product = grad.reshape(cells, out).T @ unfolded.reshape(cells, -1)
    return product.view(out, *kernel, -1).permute(0, 3, 1, 2)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        stride: tuple[int, int],
        padding: tuple[int, int],
        dilation: tuple[int, int],
    ) -> Tensor:
        x, half = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(x, half)
        ctx.how = stride, padding, dilation
        return torch.conv2d(x, half, None, stride, padding, dilation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.how
        by_x = None
        if ctx.needs_input_grad[0]:
            by_x = torch.ops.aten.convolution_backward(
                grad, x, weight, None, stride, padding, dilation, False, (0, 0), 1, (True, False, False)
            )[0]
        by_weight = weight_gradient(x, grad, weight.shape[2:], stride, padding, dilation)
        return by_x, by_weight, None, None, None


def _gains(*args: Any) -> bool:
    """Whether this call of `conv2d` is one that the product is faster for."""
    if len(args) != 7 or not torch.is_grad_enabled():
        return False
    x, weight, bias, stride, padding, dilation, groups = args
    if x.device.type != "cpu" or bias is not None or groups != 1:
        return False
    if not all(isinstance(each, tuple) for each in (stride, padding, dilation)):  # "same", or one number for both sides
        return False
    if not weight.requires_grad or weight.shape[1] < CHANNELS:
        return False
    if not torch.is_autocast_enabled("cpu") or torch.get_autocast_dtype("cpu") != torch.bfloat16:
        return False
    height, width = (
        (x.shape[2 + axis] + 2 * padding[axis] - dilation[axis] * (weight.shape[2 + axis] - 1) - 1) // stride[axis] + 1
        for axis in (0, 1)
    )
    return height * width <= CELLS
