"""What a cell of a network can see, found by spoiling pixels, and what it does see, measured by gradients."""

from bisect import bisect_left
from dataclasses import dataclass

import torch
from torch import Tensor

from glocal.backbones import Backbone
from glocal.backbones.cells import evaluating
from glocal.errors import UsageError

LARGEST = 8192
"""Side in pixels of an image of which a cell must not see a half."""


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
    """The exact receptive field of the last map, whatever the weights.

    A pixel that is NaN makes NaN of every cell that can see it. All columns left of some x are spoilt, then all right
    of it; where the cells begin and end that stay clear is found by bisection.

    Args:
        backbone: a convolutional one.

    Raises:
        UsageError: where a cell sees the whole image (attention, squeeze-and-excitation, GroupNorm).
    """
    stride, side = backbone.stride, 16 * backbone.stride

    def clear(spoilt: slice) -> list[int]:
        """The cells of a row that see none of these columns."""
        strip = next(backbone.parameters()).new_zeros(1, 3, 64, side)
        strip[..., spoilt] = torch.nan
        return backbone.forward_tensors(strip)[1].isfinite().all(2).all(1)[0].nonzero()[:, 0].tolist()

    try:
        with evaluating(backbone):
            while not ((right := clear(slice(side // 2))) and (left := clear(slice(side // 2, None)))):
                if (side := 2 * side) > LARGEST:
                    raise UsageError("a cell sees the whole image")
            first, last, middle, columns = right[0], left[-1], side // 2, range(side)
            start = bisect_left(columns, True, middle, middle + stride, key=lambda x: first not in clear(slice(x + 1)))
            stop = bisect_left(columns, True, middle - stride, middle, key=lambda x: last in clear(slice(x, None)))
    except UsageError as error:
        reason = str(error).rstrip(".")
        raise UsageError(
            f"{backbone.name} has no receptive field that can be computed: {reason}; choose a convolutional backbone"
        ) from error
    start, stop = start - stride * first, stop - stride * last
    return ReceptiveField(stop - start, stride, (start + stop) / 2)


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
    with evaluating(backbone), torch.enable_grad():
        pixels = images.detach().requires_grad_()
        dense = backbone.forward_tensors(pixels)[1]
        row, column = dense.shape[2] // 2, dense.shape[3] // 2
        cell = dense[:, :, row, column]
        total = torch.zeros(images.shape[2:], dtype=torch.float64, device=images.device)
        for c in torch.linspace(0, cell.shape[1] - 1, min(channels, cell.shape[1])).round().long().tolist():
            (gradient,) = torch.autograd.grad(cell[:, c].sum(), pixels, retain_graph=True)
            total += gradient.abs().sum((0, 1)).double()
    if not (total.isfinite().all() and total.sum() > 0):
        raise UsageError(f"the central cell of {backbone.name} does not depend on the pixels, or not finitely")
    x, y = backbone.cells(*dense.shape[2:])[row, column].tolist()
    return EffectiveField((total / total.sum()).cpu(), (x, y))
