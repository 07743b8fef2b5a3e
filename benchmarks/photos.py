"""Photographs to measure on: 500×375 JPEGs with the statistics of natural images, made once, the same everywhere.

Dead leaves: opaque discs with radii of a power law occlude one another, which gives edges at all scales and a power
spectrum near 1/f² (Lee, Mumford, Huang 2001), over a smooth gradient and under a little noise. At quality 90 a file has
the size that photographs have, and costs what they cost to decode.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SIZE = (500, 375)
DEFAULT = Path("runs/benchmarks/photos")


def photos(folder: Path = DEFAULT, *, count: int = 1000, size: tuple[int, int] = SIZE) -> Path:
    """The folder, filled up to `count` photographs where it is the default; anyone else's is taken as it is."""
    if folder != DEFAULT and folder.exists() and any(folder.iterdir()):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        path = folder / f"{number:04d}.jpg"
        if not path.exists():
            photograph(number, size).save(path, quality=90)
    return folder


def photograph(number: int, size: tuple[int, int] = SIZE) -> Image.Image:
    """One image, a function of its number and size."""
    generator = np.random.default_rng(number)
    width, height = size
    image = Image.new("RGB", size)
    draw = ImageDraw.Draw(image)
    least, most = 2.0, min(size) / 2
    discs = max(50, width * height // 120)
    # density ∝ r⁻³ between the two radii; large first, so that small ones stay visible
    u = np.sort(generator.random(discs))
    radii = 1 / np.sqrt(1 / most**2 + u * (1 / least**2 - 1 / most**2))
    hues = generator.normal(128, 50, 3) + generator.normal(0, 40, (discs, 3)) + generator.normal(0, 30, (discs, 1))
    for x, y, r, colour in zip(*generator.random((2, discs)) * [[width], [height]], radii, hues, strict=True):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=tuple(int(c) for c in colour.clip(0, 255)))
    light = np.linspace(*generator.uniform(0.6, 1.3, 2), width)[None, :, None]
    pixels = np.asarray(image) * light + generator.normal(0, 4, (height, width, 1))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
