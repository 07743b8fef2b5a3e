"""Small collections of images for the tests of views."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from glocal.data.images import EncodedImage, RawImage
from glocal.data.source import Unreadable


class Pictures:
    """An `ImageSource` of arrays (H, W, 3) uint8 or encoded images (bytes); exceptions are raised when opened."""

    name = "pictures"
    classes: list[str] | None = None
    has_masks = False

    def __init__(self, images: list, labels: np.ndarray | None = None):
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        return f"{i}.png"

    def open(self, i: int):
        image = self.images[i]
        if isinstance(image, Exception):
            raise image
        return EncodedImage(image) if isinstance(image, bytes) else RawImage(image)


def noise(count: int, labels: bool = False) -> Pictures:
    """Smooth random images of various small sizes."""
    rng = np.random.default_rng(0)
    images = []
    for _ in range(count):
        width, height = rng.integers(20, 60, size=2)
        coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        images.append(np.asarray(coarse.resize((int(width), int(height)), Image.Resampling.BICUBIC)))
    return Pictures(images, np.arange(count) % 3 if labels else None)


def with_broken(count: int, broken: set[int]) -> Pictures:
    """`noise` where some images cannot be read."""
    source = noise(count)
    source.images = [Unreadable(f"bad {i}") if i in broken else image for i, image in enumerate(source.images)]
    return source


def ramp(width: int, height: int) -> np.ndarray:
    """An image painted with its own coordinates, (H, W, 3) uint8; `read_ramp` reads them back."""
    x = np.broadcast_to((np.arange(width) + 0.5) * (256 / width), (height, width))
    y = np.broadcast_to(((np.arange(height) + 0.5) * (256 / height))[:, None], (height, width))
    return np.floor(np.stack([x, y, np.zeros_like(x)], axis=-1)).astype(np.uint8)


def read_ramp(pixels, width: int, height: int) -> np.ndarray:
    """(..., 2) the source points that colours (..., 3) of a `ramp` name."""
    return (np.asarray(pixels, dtype=np.float64)[..., :2] + 0.5) * (np.array([width, height]) / 256)


def jpeg(array: np.ndarray) -> bytes:
    """Encoded with full chroma resolution and little loss."""
    out = io.BytesIO()
    Image.fromarray(array).save(out, "JPEG", quality=98, subsampling=0)
    return out.getvalue()
