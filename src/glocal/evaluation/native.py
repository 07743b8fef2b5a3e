"""Photographs in their own shapes, for a frozen encoder: of whole patches, with the area of a square."""

from typing import Any

from PIL import Image

from glocal.backbones import Backbone
from glocal.data.source import OpenImage
from glocal.errors import UsageError
from glocal.views import Packing
from glocal.views.packing import fitted, grid_of

USUAL = 4
"""How many squares of patches a sequence holds, so that no photograph, however long, has more."""


def native_packing(encoder: Any, image_size: int) -> Packing:
    """How photographs with the area of a square of `image_size` pixels are packed; refuses an encoder of squares."""
    if not (isinstance(encoder, Backbone) and encoder.traits.packs):
        what = f"{getattr(encoder, 'name', type(encoder).__name__)} takes images of one shape"
        raise UsageError(f"{what}: leave out --native, or train a backbone like navit_small")
    return Packing(encoder.stride, USUAL * max(1, round(image_size / encoder.stride)) ** 2)


def native_image(opened: OpenImage, image_size: int, packing: Packing) -> Image.Image:
    """The whole image in its own shape, bicubic with antialiasing; smaller where it would have too many patches."""
    rows, columns = fitted(grid_of(*opened.size, image_size, packing.patch), packing.room)
    width, height = columns * packing.patch, rows * packing.patch
    scale = min(1.0, max(width / opened.size[0], height / opened.size[1]))
    return Image.fromarray(opened.decode(scale)).resize((width, height), Image.Resampling.BICUBIC)
