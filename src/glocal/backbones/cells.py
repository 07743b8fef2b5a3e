"""Where each cell of a feature map really looks.

A padded convolution does not look at the centre of its share of the image: cell k of a ResNet's last map is centred on
32k + .5, not on 32k + 16, while the patches of ConvNeXt and ViT, which do not overlap, are centred on (k + .5)·stride.
The centre follows from the strided operations alone: each moves it by ((kernel - 1)/2·dilation - padding)·jump and
multiplies the jump by its stride (Araujo et al. 2019, "Computing receptive fields of convolutional neural networks").
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from glocal.errors import UsageError


@dataclass(frozen=True)
class Step:
    """A spatial operation of a forward pass, along one axis. `padding` is that before the first cell."""

    size_in: int
    size_out: int
    kernel: int
    stride: int
    padding: int
    dilation: int

    @property
    def reach(self) -> int:
        """Number of input cells from the first one it reads to the last one, both included."""
        return (self.kernel - 1) * self.dilation + 1

    @property
    def shift(self) -> float:
        """Where output cell 0 is centred, in input cells from the centre of input cell 0."""
        return (self.reach - 1) / 2 - self.padding


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradient; each module's own mode is restored afterwards."""
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in training.items():
            module.training = mode


@contextmanager
def output_of(model: nn.Module, name: str | None) -> Iterator[list[Tensor]]:
    """What a module of a model, by its name, gives while this lasts; nothing without a name."""
    found: list[Tensor] = []
    if name is None:
        yield found
        return
    handle = model.get_submodule(name).register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        yield found
    finally:
        handle.remove()


def trace(model: Any, image: Tensor, until: str | None = None) -> tuple[Any, list[Step]]:
    """What a timm model's `forward_features` gives of an image (1, 3, h, w), and the operations on its way, in order.

    Only those that change the resolution or move the grid. Or what the module of the name `until` gives, on its way.
    """
    steps: list[Step] = []

    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        step = _step_of(module, inputs[0].shape[-1], output.shape[-1])
        # At equal size only an even convolution moves the trunk (a dilated ConvNeXt); even poolings are in shortcuts.
        if step.size_out != step.size_in or (isinstance(module, nn.Conv2d) and step.shift != 0):
            steps.append(step)

    from timm.layers import BlurPool2d

    kinds = nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.ConstantPad2d, BlurPool2d
    handles = [module.register_forward_hook(record) for module in model.modules() if isinstance(module, kinds)]
    there: list[tuple[Any, list[Step]]] = []
    if until is not None:
        at = model.get_submodule(until)
        handles.append(at.register_forward_hook(lambda module, inputs, output: there.append((output, [*steps]))))
    try:
        with evaluating(model):
            output = model.forward_features(image)
            return there[0] if there else (output, steps)
    finally:
        for handle in handles:
            handle.remove()


def locate(steps: list[Step], size: int, side: int) -> tuple[int, float]:
    """Stride from cell to cell, and the continuous coordinate that cell 0 looks at, both in pixels.

    The trunk is followed from the image down: at each resolution it takes the smallest drop, not a side branch that
    subsamples keys, and among equal drops the largest reach, not the 1×1 shortcut. The grid is taken as uniform where
    that misses the size of the map (Swin merges patches by reshaping) or leaves the image.

    Args:
        steps: what `trace` saw.
        size: side of the traced image in pixels.
        side: side of the map in cells.
    """
    offset, jump, start, reached = 0.5, 1, 0, size
    while ahead := [i for i in range(start, len(steps)) if steps[i].size_in == reached]:
        chosen = max(ahead, key=lambda i: (steps[i].size_out, steps[i].reach))
        step = steps[chosen]
        offset += step.shift * jump
        jump *= step.stride
        start, reached = chosen + 1, step.size_out
    if reached == side and 0 < offset < size:
        return jump, offset
    stride = round(size / side)
    return stride, stride / 2


def grid_positions(height: int, width: int, offset: float, stride: int, device=None) -> Tensor:
    """(H, W, 2) as (x, y) in crop pixels: offset + stride·k along both axes."""
    y = offset + stride * torch.arange(height, device=device, dtype=torch.float32)
    x = offset + stride * torch.arange(width, device=device, dtype=torch.float32)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)


def _step_of(module: Any, size_in: int, size_out: int) -> Step:
    """Kernel, stride, padding and dilation of one operation along the horizontal axis."""
    if isinstance(module, nn.ConstantPad2d):
        return Step(size_in, size_out, kernel=1, stride=1, padding=module.padding[0], dilation=1)
    last = lambda value: value[-1] if isinstance(value, (tuple, list)) else value
    kernel = last(module.filt_size if hasattr(module, "filt_size") else module.kernel_size)
    stride, dilation = last(module.stride), last(getattr(module, "dilation", 1))
    if "Same" in type(module).__name__ or module.padding == "same":
        # TensorFlow's rule: what the last window lacks, its smaller half in front.
        padding = max((-(-size_in // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size_in, 0) // 2
    else:
        padding = 0 if module.padding == "valid" else last(module.padding)
    return Step(size_in, size_out, kernel, stride, padding, dilation)


def token_grid(tokens: int, height: int, width: int, *, stride: int, name: str) -> tuple[int, int]:
    """(H, W) of a token sequence; some models pad a patch that the image does not fill, others drop it."""
    for grid in ((height // stride, width // stride), (-(-height // stride), -(-width // stride))):
        if grid[0] * grid[1] == tokens:
            return grid
    raise UsageError(
        f"{name} gives {tokens} tokens for a {width}×{height} image, which is no grid of stride {stride};"
        f" use sizes divisible by {stride}"
    )
