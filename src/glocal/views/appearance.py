"""Colour, blur and normalisation of a whole batch of views on its device, with parameters of its own for every sample.

Each operation means what it means in `torchvision.transforms.v2.functional` on float images in [0, 1].
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from math import ceil, sqrt

import numpy as np
import torch
from torch import Tensor

from glocal import random
from glocal.views.recipe import Crop, Recipe
from glocal.views.support import support_seed
from glocal.views.upload import upload
from glocal.views.view import Batch

GRAY = (0.2989, 0.587, 0.114)  # ITU-R 601 luma, with torchvision's digits


class Appearance:
    """Turn a batch of uint8 views into normalised float views as a recipe says; float views are left as they are.

    The order is that of BYOL: colour jitter (its four operations in a random order per sample), grey, blur, solarize,
    normalise. What happens to sample i in epoch e is a pure function of (seed, epoch, sample, view).

    Args:
        recipe: one `Crop` per view.
        mean, std: of each channel, in [0, 1] units, by which the backbone expects pixels to be normalised.
        seed: the run's seed.
    """

    def __init__(self, recipe: Recipe, mean: Sequence[float], std: Sequence[float], seed: int):
        self.recipe, self.mean, self.std, self.seed = recipe, tuple(mean), tuple(std), seed
        of = recipe.support
        self.support = Appearance(Recipe(of.views), mean, std, support_seed(seed)) if of else None

    @torch.no_grad()
    def __call__(
        self, batch: Batch, epoch: int, device: torch.device | str | None = None, out: Sequence[Tensor] | None = None
    ) -> Batch:
        """The batch with pixels (B, 3, size, size) float32, channels-last in memory.

        Args:
            batch: of this epoch, from a `ViewLoader` of the same recipe.
            epoch: which.
            device: where to do the work; None: where the batch is. Passing a batch still in main memory together with a
                device spares a wait: the parameters are drawn in main memory, from `batch.index`.
            out: where to write the pixels of each view; None: into new memory.
        """
        if self.support and batch.support:
            batch = replace(batch, support=self.support(batch.support, epoch, device))
        keys = (batch.index if batch.key is None else batch.key).cpu().numpy()
        if device is not None:
            batch = upload(batch, device)
        if all(view.pixels.is_floating_point() for view in batch.views):
            return batch  # a loader has finished them
        views = []
        for number, (view, crop) in enumerate(zip(batch.views, self.recipe.views, strict=True)):
            plan = draw(crop, self.seed, epoch, keys, number)
            with torch.autocast(view.pixels.device.type, enabled=False):
                into = None if out is None else out[number]
                views.append(replace(view, pixels=render(view.pixels, plan, self.mean, self.std, into)))
        return replace(batch, views=views)

    @torch.no_grad()
    def images(self, images: Sequence[Tensor], number: int, epoch: int, keys: np.ndarray) -> list[Tensor]:
        """Crops (h, w, 3) uint8 of any shapes, each (3, h, w) as view `number` of its sample, on the CPU.

        The smaller a native crop, the less it is blurred: σ is that of the largest.
        """
        crop, rows = self.recipe.views[number], np.arange(len(images))[:, None]
        plan = draw(crop, self.seed, epoch, keys, number)
        if crop.native:
            sides = np.array([sqrt(image.shape[0] * image.shape[1]) for image in images])
            plan = replace(plan, sigma=plan.sigma * np.minimum(sides / crop.native[1], 1))
        shift, scale = _shift_and_scale(self.mean, self.std)
        one_by_one = zip(images, rows, strict=True)
        return [_carry_out(x.permute(2, 0, 1)[None], plan, row, shift, scale)[0] for x, row in one_by_one]


@dataclass(frozen=True)
class AugmentParams:
    """What will happen to each sample of one view."""

    order: (
        np.ndarray
    )  # (B, 4), the colour operation done first, ...: 0 brightness, 1 contrast, 2 saturation, 3 hue; −1 none
    factor: np.ndarray  # (B, 4) strength of the four operations, as in torchvision's `adjust_*`
    gray: np.ndarray  # (B,) bool
    sigma: np.ndarray  # (B,) of the blur in pixels; 0 for none
    solarize: np.ndarray  # (B,) bool
    radius: int  # of the blur's kernel in pixels, the same for all


def draw(crop: Crop, seed: int, epoch: int, index: np.ndarray, view: int) -> AugmentParams:
    """The parameters of samples `index` (B,), which a batch of other samples, or in another order, would not change."""
    u = random.uniform(seed, "appearance", epoch, index, view, n=13)
    widths = np.array([crop.brightness, crop.contrast, crop.saturation, crop.hue])
    middle = np.array([1.0, 1.0, 1.0, 0.0])
    low = np.maximum(middle - widths, [0.0, 0.0, 0.0, -0.5])
    factor = low + u[:, :4] * (np.minimum(middle + widths, [np.inf, np.inf, np.inf, 0.5]) - low)
    order = np.where(u[:, 8:9] < crop.jitter, u[:, 4:8].argsort(axis=1), -1)
    order = np.where(widths[order] > 0, order, -1)  # nothing to do
    low_sigma, high_sigma = crop.sigma
    sigma = np.where(u[:, 10] < crop.blur, low_sigma + u[:, 11] * (high_sigma - low_sigma), 0.0)
    gray, solarize = u[:, 9] < crop.gray, u[:, 12] < crop.solarize
    return AugmentParams(order, factor, gray, sigma, solarize, radius=ceil(4 * high_sigma))


def render(
    pixels: Tensor, plan: AugmentParams, mean: Sequence[float], std: Sequence[float], out: Tensor | None = None
) -> Tensor:
    """Carry out a plan on uint8 pixels (B, 3, s, s); float32, normalised, channels-last, or written into `out`."""
    if out is None:
        out = torch.empty_like(pixels, dtype=torch.float32, memory_format=torch.channels_last)
    if not calls_are_cheap(pixels):
        return _carry_out_at_once(pixels, plan, mean, std, out)
    shift, scale = _shift_and_scale(mean, std)
    alike = np.lexsort(plan.order.T[::-1])  # samples that undergo the same come to lie side by side
    for part in np.split(alike, range(0, len(alike), max(1, CACHE // pixels[0].numel()))[1:]):
        images = _carry_out(pixels[torch.from_numpy(part)], plan, part, shift, scale)
        for row, image in zip(part, images, strict=True):  # all at once is six times slower
            out[row] = image
    return out


def _shift_and_scale(mean: Sequence[float], std: Sequence[float]) -> tuple[Tensor, Tensor]:
    shift, scale = (torch.tensor(c, dtype=torch.float32)[:, None, None] for c in (mean, std))
    return shift, scale


def _carry_out(pixels: Tensor, plan: AugmentParams, part: np.ndarray, shift: Tensor, scale: Tensor) -> Tensor:
    """What is planned for the samples `part`, whose pixels these are."""
    x = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    for turn in plan.order[part].T:
        for number, adjust in enumerate((brightness_, contrast_, saturation_, hue_)):
            change(x, turn == number, adjust, plan.factor[part, number])
    change(x, plan.gray[part], gray_)
    change(x, plan.sigma[part] > 0, partial(blur_, radius=plan.radius), plan.sigma[part])
    change(x, plan.solarize[part], solarize_)
    return x.sub_(shift).div_(scale)


CACHE = 2**19  # values to work on at once on a CPU: 2 MiB of float32, about what its cache holds


def calls_are_cheap(x: Tensor) -> bool:
    """Whether many small operations cost less than copies: on a CPU they do, on a GPU each is a launch."""
    return x.device.type == "cpu"


def change(x: Tensor, who: np.ndarray, operation: Callable[..., Tensor], *parameters: np.ndarray) -> None:
    """Do an operation in place to those samples of `x` (B, ...) where `who` (B,) is true, each with its parameters."""
    rows = np.flatnonzero(who)
    if len(rows) == 0:
        return
    chosen = [torch.from_numpy(p[rows].astype(np.float32)) for p in parameters]
    breaks = [0, *(np.flatnonzero(np.diff(rows) > 1) + 1), len(rows)]
    for start, end in pairwise(breaks):  # samples side by side
        operation(x[rows[start] : rows[end - 1] + 1], *(p[start:end] for p in chosen))


def _carry_out_at_once(
    pixels: Tensor, plan: AugmentParams, mean: Sequence[float], std: Sequence[float], out: Tensor
) -> Tensor:
    """What is planned for all samples, in few launches, after one upload; into `out`.

    Brightness, contrast, saturation and grey are one operation, x ← f·x + a·(mean luma) + b·luma, which leaves other
    samples as they are with f = 1, a = b = 0. Hue and blur, which take longer, see only their own samples.
    """
    does = plan.order[:, :, None] == np.arange(4)  # (B, turn, operation)
    strength = (does * plan.factor[:, None]).sum(2)
    mix = np.where(does[..., :3].any(2), strength, 1), (1 - strength) * does[..., 1], (1 - strength) * does[..., 2]
    gray = ~plan.gray, np.zeros_like(plan.gray), plan.gray
    mixes = np.concatenate([np.stack(mix).transpose(2, 0, 1), np.stack(gray)[None]])  # (5, 3, B)
    needed = (mixes != np.array([[1], [0], [0]])).any((1, 2))
    turn, hue = np.nonzero(does[..., 3].T)
    sizes, blurred = np.bincount(turn, minlength=5).tolist(), np.flatnonzero(plan.sigma > 0)
    limit = np.where(plan.solarize, 1, 2)  # min(x, c − x) inverts the upper half where c is 1, and nothing where 2
    shift, scale = -np.divide(mean, std), np.divide(1, std)
    parts = mixes.ravel(), limit, shift, scale, hue, plan.factor[hue, 3], blurred, plan.sigma[blurred]
    packed = torch.from_numpy(np.concatenate(parts).astype(np.float32)).to(pixels.device, non_blocking=True)
    mixed, limits, shifts, scales, hues, turns, blurs, sigma = packed.split([len(part) for part in parts])
    hues, blurs = hues.long(), blurs.long()  # float32 has all whole numbers up to 16 million
    x = pixels.to(torch.float32, memory_format=torch.contiguous_format).div_(255)
    steps = zip(mixed.view(mixes.shape), needed, hues.split(sizes), turns.split(sizes), strict=True)
    for numbers, wanted, at, angle in steps:
        if wanted:
            mix_(x, *numbers)
        if len(at):
            x.index_copy_(0, at, hue_(x.index_select(0, at), angle))
    if len(blurred) == len(x):
        blur_(x, sigma, plan.radius)
    elif len(blurred):
        x.index_copy_(0, blurs, blur_(x.index_select(0, blurs), sigma, plan.radius))
    if plan.solarize.any():
        torch.minimum(x, limits[:, None, None, None] - x, out=x)
    return torch.addcmul(shifts[:, None, None], x, scales[:, None, None], out=out)


def mix_(x: Tensor, factor: Tensor, of_mean: Tensor, of_luma: Tensor) -> Tensor:
    """x ← factor·x + of_mean·(mean luma) + of_luma·luma, within [0, 1], of (B, 3, h, w) by numbers (B,) each."""
    light = luma(x)
    rest = light.mean(dim=(2, 3), keepdim=True).mul_(of_mean[:, None, None, None])
    rest = light.mul_(of_luma[:, None, None, None]).add_(rest)
    return torch.addcmul(rest, x, factor[:, None, None, None], out=x).clamp_(0, 1)


def brightness_(x: Tensor, factor: Tensor) -> Tensor:
    """Scale (B, 3, h, w) by `factor` (B,)."""
    return x.mul_(factor[:, None, None, None]).clamp_(0, 1)


def contrast_(x: Tensor, factor: Tensor) -> Tensor:
    """Scale about the mean luma of each image."""
    rest = luma(x.mean(dim=(2, 3), keepdim=True)).mul_(1 - factor[:, None, None, None])
    return x.mul_(factor[:, None, None, None]).add_(rest).clamp_(0, 1)


def saturation_(x: Tensor, factor: Tensor) -> Tensor:
    """Scale about the luma of each pixel."""
    rest = luma(x).mul_(1 - factor[:, None, None, None])
    return x.mul_(factor[:, None, None, None]).add_(rest).clamp_(0, 1)


def luma(x: Tensor) -> Tensor:
    """(B, 1, h, w) brightness of each pixel of (B, 3, h, w)."""
    red, green, blue = x.split(1, dim=1)
    return (red * GRAY[0]).add_(green, alpha=GRAY[1]).add_(blue, alpha=GRAY[2])


def hue_(x: Tensor, turns: Tensor) -> Tensor:
    """Rotate the hue of HSV by `turns` (B,) of the colour circle, keeping value and chroma.

    The usual tables of cases in closed form, several times faster. The hue of a pixel is h = (g−b)/6c where red is the
    largest, else 1/3 + (b−r)/6c where green is, else 2/3 + (r−g)/6c; a channel whose own colour lies at h₀ is then
    low + c·clamp(2 − 6|h−h₀|, 0, 1), distances taken around the circle.
    """
    red, green, blue = x.unbind(1)
    high = torch.maximum(red, green).maximum(blue)
    low = torch.minimum(red, green).minimum(blue)
    chroma = (high - low).mul_(6)
    hue = (red - green).add_(chroma, alpha=2 / 3)
    hue = (blue - red).add_(chroma, alpha=1 / 3).lerp_(hue, (high - green).sign_())
    hue = (green - blue).lerp_(hue, (high - red).sign_())
    hue.div_(chroma + 1e-30).add_(1 + turns[:, None, None]).frac_()  # 1e-30: greys have hue 0
    third_down, two_thirds_up = low - chroma / 6, low + chroma / 3
    torch.addcmul(third_down, chroma, (hue - 1 / 2).abs_().clamp_(1 / 6, 1 / 3), out=red)
    torch.addcmul(two_thirds_up, chroma, (hue - 1 / 3).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=green)
    torch.addcmul(two_thirds_up, chroma, (hue - 2 / 3).abs_().clamp_(1 / 6, 1 / 3), value=-1, out=blue)
    return x


def gray_(x: Tensor) -> Tensor:
    """Luma in all three channels."""
    return x.copy_(luma(x))


def solarize_(x: Tensor) -> Tensor:
    """Invert values of one half and more."""
    return torch.minimum(x, 1 - x, out=x)


def blur_(x: Tensor, sigma: Tensor, radius: int) -> Tensor:
    """Gaussian blur of images (B, 3, h, w) with `sigma` (B,) pixels, kernel ±`radius`, reflecting at the border.

    Blurring along a side of s pixels is a banded s×s matrix, one for each sample, so batched matrix products do it all.
    """
    height, width = x.shape[-2:]
    across = _blur_matrix(width, sigma, radius)
    down = across if height == width else _blur_matrix(height, sigma, radius)
    rows = torch.bmm(x.view(len(x), -1, width), across.transpose(1, 2)).view_as(x)
    for channel in range(x.shape[1]):  # all three at once would copy the matrices three times
        torch.bmm(down, rows[:, channel], out=x[:, channel])
    return x


def _blur_matrix(side: int, sigma: Tensor, radius: int) -> Tensor:
    radius = min(radius, side - 1)
    taps = torch.exp(-0.5 * (torch.arange(radius + 1, device=sigma.device) / sigma[:, None]) ** 2)
    taps = torch.where(taps < 1e-9, 0, taps)  # denormal numbers would slow the products down five times
    taps = taps / (2 * taps.sum(1, keepdim=True) - taps[:, :1])
    return (taps @ _bands(side, radius, sigma.device)).view(-1, side, side)


@lru_cache(maxsize=64)
def _bands(side: int, radius: int, device: torch.device) -> Tensor:
    """(radius + 1, side²): how often a blur matrix takes the tap at distance d in entry (i, j), reflections too."""
    i, j = torch.arange(side, device=device), torch.arange(side, device=device)[:, None]
    distance = torch.arange(radius + 1, device=device)[:, None, None]
    direct = (i - j).abs() == distance
    low = (i + j == distance) & (i > 0)
    high = (2 * (side - 1) - i - j == distance) & (i < side - 1)
    return (direct.float() + low.float() + high.float()).flatten(1)
