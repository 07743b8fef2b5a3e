"""Samples of a generator as a picture."""

import math
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from glocal.errors import UsageError
from glocal.evaluation.generation import samples
from glocal.progress import Progress
from glocal.run import write_atomically


def grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Images (N, 3, h, w), uint8, side by side, about as many rows as columns unless these are given."""
    pixels = make_grid(images, nrow=columns or math.ceil(math.sqrt(len(images))), padding=1, pad_value=255)
    return Image.fromarray(pixels.permute(1, 2, 0).numpy())


def write_samples(
    generator: Any,
    out: Path,
    *,
    n: int,
    seed: int,
    cluster: int | None = None,
    settings: dict[str, Any],
    progress: Progress | None = None,
) -> Path:
    """Draw n images and write them as one picture; see `glocal.generate`.

    Args:
        generator: on the device that is to compute.
        out: a .png, .jpg or .webp file.
        n, seed, cluster, progress: see `samples`.
        settings: attributes of the generator, None for those that are to stay as they are.
    """
    if out.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise UsageError(f"--out {out}: name a picture, for example grid.png")
    if not 1 <= n <= 10_000:
        raise UsageError(f"--n {n}: a picture has room for 1 to 10,000 images")
    for name, value in settings.items():
        if value is None:
            continue
        if not hasattr(generator, name):
            raise UsageError(f"--{name} is for flows; this generator has none: leave it out")
        setattr(generator, name, value)
    picture = grid(samples(generator, n, seed=seed, cluster=cluster, progress=progress))
    write_atomically(out, lambda path: picture.save(path, Image.registered_extensions()[out.suffix.lower()]))
    return out
