"""The fifteen common corruptions of ImageNet-C (Hendrycks & Dietterich 2019), on batches, on any device.

Each is a function of images (B, 3, H, W) in [0, 1], the constants of one severity, and `Draws`: the random numbers of
a sample depend on the seed, the corruption and the sample alone, and are the same at every severity. Written from the
benchmark's definitions; the differences from its files are listed in docs/robustness.md.
"""

import io
import math
from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from glocal import random
from glocal.errors import UsageError
from glocal.evaluation.severities import SEVERITIES, nearest_size


class Draws:
    """Random numbers of B samples, which integers name; each has a generator of its own for what is called `stream`."""

    def __init__(self, seed: int, stream: str, samples: Sequence[int]) -> None:
        self._each = [np.random.default_rng(random.derive(seed, stream, int(i))) for i in samples]

    def uniform(self, *shape: int, like: Tensor) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return torch.from_numpy(np.stack([draw.random(shape, dtype=np.float32) for draw in self._each])).to(like)

    def normal(self, *shape: int, like: Tensor) -> Tensor:
        """(B, *shape) of mean 0 and deviation 1."""
        numbers = [draw.standard_normal(shape, dtype=np.float32) for draw in self._each]
        return torch.from_numpy(np.stack(numbers)).to(like)

    def poisson(self, rate: Tensor) -> Tensor:
        """Counts with expectation `rate` (B, ...)."""
        counts = [draw.poisson(r) for draw, r in zip(self._each, rate.cpu().numpy(), strict=True)]
        return torch.from_numpy(np.stack(counts)).to(rate)


def corrupt(pixels: Tensor, name: str, severity: int, *, seed: int = 0, samples: Sequence[int] | None = None) -> Tensor:
    """Corrupted images (B, H, W, 3) uint8, a function of each image, its name and the seed alone.

    Args:
        pixels: (B, H, W, 3) uint8.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5 with the constants of the benchmark of the nearest size; 0 leaves the images as they are.
        seed: of the random numbers.
        samples: B integers that name the images; by default 0 to B - 1.
    """
    if name not in CORRUPTIONS:
        raise UsageError(f"unknown corruption '{name}' (there are: {', '.join(CORRUPTIONS)})")
    if severity not in range(6):
        raise UsageError(f"severity is {severity}; use 0 (none) to 5 (most)")
    if severity == 0:
        return pixels
    constants = SEVERITIES[nearest_size(min(pixels.shape[1:3]))][name][severity - 1]
    draws = Draws(seed, name, range(len(pixels)) if samples is None else samples)
    x = pixels.permute(0, 3, 1, 2).float().contiguous() / 255
    corrupted = CORRUPTIONS[name](x, constants, draws)
    return (corrupted.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _gaussian_noise(x: Tensor, deviation: float, draws: Draws) -> Tensor:
    return x + deviation * draws.normal(*x.shape[1:], like=x)


def _shot_noise(x: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson counts of so many photons at full brightness."""
    return draws.poisson(x * photons) / photons


def _impulse_noise(x: Tensor, amount: float, draws: Draws) -> Tensor:
    """That share of all values becomes 0 or 1."""
    u = draws.uniform(*x.shape[1:], like=x)
    return torch.where(u < amount / 2, 0.0, torch.where(u < amount, 1.0, x))


def _defocus_blur(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """A disk of that radius, itself softened by a Gaussian of that deviation over 3×3 (5×5 beyond radius 8) pixels."""
    radius, softness = constants
    soft = 1 if radius <= 8 else 2
    half = math.ceil(radius) + soft
    squares = torch.arange(-half, half + 1, device=x.device).square()
    disk = (squares[:, None] + squares <= radius**2).to(x)
    gauss = _gauss(softness, soft).to(x)
    kernel = F.conv2d((disk / disk.sum())[None, None], (gauss[:, None] * gauss)[None, None], padding=soft)
    return F.conv2d(F.pad(x.flatten(0, 1)[:, None], (half,) * 4, mode="reflect"), kernel).view_as(x)


def _glass_blur(x: Tensor, constants: tuple[float, int, int], draws: Draws) -> Tensor:
    """Every pixel changes places with a random one at most that far away, that many times, between two Gaussian blurs.

    Pixels more than twice that distance apart swap at the same time: none can be in the way of another.
    """
    deviation, distance, times = constants
    x = _blur(x, deviation)
    height, width = x.shape[2:]
    numbers = torch.arange(height * width, device=x.device).view(height, width)
    content, span = numbers.flatten().expand(len(x), -1).clone(), 2 * distance + 1
    for _ in range(times):
        away = (draws.uniform(2, height, width, like=x) * span).floor().long() - distance
        other = numbers + away[:, 0] * width + away[:, 1]
        for top, left in product(range(distance, 3 * distance + 1), repeat=2):
            lattice = (slice(top, height - distance, span), slice(left, width - distance, span))
            here, there = numbers[lattice].flatten().expand(len(x), -1), other[:, *lattice].flatten(1)
            mine, theirs = content.gather(1, here), content.gather(1, there)
            content.scatter_(1, here, theirs).scatter_(1, there, mine)
    x = x.flatten(2).gather(2, content[:, None].expand(-1, x.shape[1], -1)).view_as(x)
    return _blur(x, deviation)


def _motion_blur(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """Smeared along a random direction within 45° of the horizontal: (radius, deviation) as in `_smear`."""
    return _smear(x, *constants, (draws.uniform(like=x) - 0.5) * math.pi / 2)


def _zoom_blur(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """The mean of the image and of its enlargements by 1, 1 + step, ... 1 + most."""
    most, step = constants
    enlarged = [_zoom(x, 1 + k * step) for k in range(round(most / step) + 1)]
    return (x + sum(enlarged)) / (len(enlarged) + 1)


def _snow(x: Tensor, constants: tuple[float, ...], draws: Draws) -> Tensor:
    """Bright flakes: (mean, deviation) of Gaussian noise, its enlargement, the least value kept, (radius, deviation)
    of its fall, and how much of the image's colour stays."""
    mean, deviation, size, least, radius, fall, colour = constants
    flakes = _zoom(mean + deviation * draws.normal(1, *x.shape[2:], like=x), size)
    flakes = torch.where(flakes < least, 0.0, flakes).clamp(0, 1)
    flakes = _smear(flakes, radius, fall, -(0.25 + 0.5 * draws.uniform(like=x)) * math.pi)
    grey = (x * x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)).sum(1, keepdim=True)
    pale = colour * x + (1 - colour) * torch.maximum(x, grey * 1.5 + 0.5)
    return pale + flakes + flakes.flip(2, 3)


def _frost(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """So much of the image plus so much of a frosted pane.

    The benchmark takes crops of six photographs. Here the pane is a fractal with their spectrum (power ∝ f⁻²), blue
    tint, and spread of brightness between and within panes (means .35 to .82, deviation .12).
    """
    keep, add = constants
    pane = _plasma(x, 2.0, draws)
    pane = (pane - pane.mean((2, 3), keepdim=True)) / pane.std((2, 3), keepdim=True)
    level = 0.35 + 0.47 * draws.uniform(1, 1, 1, like=x)
    tint = x.new_tensor([-0.06, 0.0, 0.05]).view(3, 1, 1)
    return keep * x + add * (level + tint + 0.12 * pane).clamp(0, 1)


def _fog(x: Tensor, constants: tuple[float, float], draws: Draws) -> Tensor:
    """A fractal of that strength and decay is added; the brightest value of the image stays what it was."""
    strength, decay = constants
    most = x.amax((1, 2, 3), keepdim=True)
    return (x + strength * _plasma(x, decay, draws)) * most / (most + strength)


def _brightness(x: Tensor, more: float, draws: Draws) -> Tensor:
    """The value of HSV grows by so much; hue and saturation stay."""
    value = x.amax(1, keepdim=True)
    brighter = (value + more).clamp(0, 1)
    return torch.where(value > 0, x * brighter / value.clamp_min(1e-6), brighter)


def _contrast(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Only that share of the distance from each channel's mean is left."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * share + mean


def _elastic_transform(x: Tensor, constants: tuple[float, float, float], draws: Draws) -> Tensor:
    """A random affine map, then smooth random displacements.

    (strength, deviation) of the Gaussian that smooths uniform displacements, and how far at most, in pixels, the
    affine map moves three points around the centre.
    """
    strength, deviation, most = constants
    height, width = x.shape[2:]
    middle, reach = x.new_tensor([width // 2, height // 2]), min(height, width) // 3
    points = middle + reach * x.new_tensor([[1, 1], [1, -1], [-1, -1]])
    moved = points + most * (2 * draws.uniform(3, 2, like=x) - 1)
    one = torch.ones_like(moved[..., :1])
    back = torch.linalg.solve(torch.cat([moved, one], -1), points.expand_as(moved))  # (B, 3, 2): where pixels come from
    columns, rows = _grid(x)
    px, py = (columns * back[:, 0, k, None, None] + rows * back[:, 1, k, None, None] for k in (0, 1))
    x = _sample(x, px + back[:, 2, 0, None, None], py + back[:, 2, 1, None, None], "reflection")
    if strength == 0:
        return x
    away = strength * _blur(2 * draws.uniform(2, height, width, like=x) - 1, deviation, reach=3, mirror=True)
    return _sample(x, columns + away[:, 0], rows + away[:, 1], "reflection")


def _pixelate(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Shrunk to that share of each side and enlarged again, both by box filters."""

    def blocks(image: Image.Image) -> Image.Image:
        width, height = (max(1, int(side * share)) for side in image.size)
        return image.resize((width, height), Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)

    return _by_pillow(x, blocks)


def _jpeg_compression(x: Tensor, quality: int, draws: Draws) -> Tensor:
    def compressed(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer)

    return _by_pillow(x, compressed)


CORRUPTIONS: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "brightness": _brightness,
    "contrast": _contrast,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""Name -> function of (images (B, 3, H, W) in [0, 1], constants, draws); noise, blur, weather, digital."""


def _by_pillow(x: Tensor, change: Callable[[Image.Image], Image.Image]) -> Tensor:
    pixels = (x * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
    changed = np.stack([np.asarray(change(Image.fromarray(image))) for image in pixels])
    return torch.from_numpy(changed).permute(0, 3, 1, 2).to(x) / 255


def _gauss(deviation: float, half: int) -> Tensor:
    """(2·half + 1,) weights that sum to one."""
    places = torch.arange(-half, half + 1, dtype=torch.float32)
    weights = torch.exp(-0.5 * (places / max(deviation, 1e-3)).square())
    return weights / weights.sum()


def _blur(x: Tensor, deviation: float, *, reach: float = 4, mirror: bool = False) -> Tensor:
    """Gaussian blur of (B, C, H, W), cut off at `reach` deviations; beyond its edge the image is mirrored or repeats
    its last pixel. One matrix a side, so that a deviation larger than the image is no special case."""

    def smoother(side: int) -> Tensor:
        half = int(reach * deviation + 0.5)
        places = torch.arange(side)[:, None] + torch.arange(-half, half + 1)
        wrapped = places.remainder(2 * side)
        inside = torch.minimum(wrapped, 2 * side - 1 - wrapped) if mirror else places.clamp(0, side - 1)
        weights = _gauss(deviation, half).expand(side, -1)
        return torch.zeros(side, side).scatter_add_(1, inside, weights).to(x)

    return smoother(x.shape[2]) @ x @ smoother(x.shape[3]).T


def _grid(x: Tensor) -> tuple[Tensor, Tensor]:
    """Column (1, W) and row (H, 1) numbers of the pixels of (B, C, H, W)."""
    return torch.arange(x.shape[3]).to(x)[None], torch.arange(x.shape[2]).to(x)[:, None]


def _sample(x: Tensor, columns: Tensor, rows: Tensor, padding: str) -> Tensor:
    """x (B, C, H, W) at places (B, H, W), bilinear; pixel numbers, so that (0, 0) is the first pixel's centre."""
    size = x.new_tensor([x.shape[3], x.shape[2]])
    columns, rows = torch.broadcast_tensors(columns, rows)
    places = (2 * torch.stack([columns, rows], -1) + 1) / size - 1
    return F.grid_sample(x, places.expand(len(x), -1, -1, -1), padding_mode=padding, align_corners=False)


def _zoom(x: Tensor, factor: float) -> Tensor:
    """The centre of x (B, C, H, W), enlarged to its size."""
    columns, rows = _grid(x)
    middle_x, middle_y = (x.shape[3] - 1) / 2, (x.shape[2] - 1) / 2
    return _sample(x, middle_x + (columns - middle_x) / factor, middle_y + (rows - middle_y) / factor, "border")


def _smear(x: Tensor, radius: float, deviation: float, angle: Tensor) -> Tensor:
    """x (B, C, H, W), smeared by the falling half of a Gaussian, over 2·radius pixels, along each sample's direction.

    Radius and deviation are in pixels, the angle (B,) in radians from the horizontal.
    """
    weights = _gauss(deviation, int(2 * radius))[int(2 * radius) :]
    weights = weights[weights > 1e-3 * weights[0]]
    columns, rows = _grid(x)
    dx, dy = torch.cos(angle).view(-1, 1, 1), torch.sin(angle).view(-1, 1, 1)
    shifted = (w * _sample(x, columns + k * dx, rows + k * dy, "border") for k, w in enumerate(weights.tolist()))
    return torch.stack(list(shifted)).sum(0) / float(weights.sum()) if len(weights) > 1 else x


def _plasma(x: Tensor, decay: float, draws: Draws) -> Tensor:
    """A fractal (B, 1, H, W) in [0, 1]: the diamond-square algorithm on a torus, its displacements falling by decay²
    from one scale to the next."""
    height, width = x.shape[2:]
    side = 2 ** math.ceil(math.log2(max(height, width)))
    plane = x.new_zeros(len(x), side, side)
    step, amount = side, 1.0
    while step >= 2:
        half = step // 2
        wobble = amount * (2 * draws.uniform(3, side // step, side // step, like=x) - 1)
        corners = plane[:, ::step, ::step]
        above = corners + corners.roll(-1, 2)
        centres = (above + above.roll(-1, 1)) / 4 + wobble[:, 0]
        beside = corners + corners.roll(-1, 1)
        plane[:, ::step, half::step] = (above + centres + centres.roll(1, 1)) / 4 + wobble[:, 1]
        plane[:, half::step, ::step] = (beside + centres + centres.roll(1, 2)) / 4 + wobble[:, 2]
        plane[:, half::step, half::step] = centres
        step, amount = half, amount / decay**2
    low, high = plane.amin((1, 2), keepdim=True), plane.amax((1, 2), keepdim=True)
    return ((plane - low) / (high - low))[:, None, :height, :width]
