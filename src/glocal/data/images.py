"""Opening and decoding image files: whatever a folder of photographs holds comes out as 8-bit RGB.

Choices, the same for every file: EXIF orientation is applied; transparency is laid over white; 16-bit grey is scaled,
never clipped; an animation is its first frame; colour profiles are ignored.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile

from glocal.data.source import Unreadable

try:
    import simplejpeg
except ImportError:  # a checkout that was not installed: Pillow does the same more slowly
    simplejpeg = None

_KINDS = "jpg jpeg jpe jfif mpo png webp gif bmp tif tiff ppm pgm pbm pnm jp2 avif"
EXTENSIONS = frozenset("." + kind for kind in _KINDS.split(" "))
"""Files that count as images, in lower case."""

MAX_PIXELS = 2**28
"""The most pixels that are ever decoded at once (1 GiB of memory); JPEG files above it are decoded at a lower scale."""

# By content, not by extension. Named one by one because some of Pillow's other formats run programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_ORIENTATION = 0x0112
_TURN: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[::-1],
}
"""What brings the pixels (h, w, 3) of a file with this EXIF orientation upright."""


class EncodedImage:
    """An image file in memory with its header read; the file itself is already closed.

    Args:
        data: the bytes of the file.

    Raises:
        Unreadable: if the header is not that of an image, or the image is too large to decode.
    """

    def __init__(self, data: bytes):
        self._data = data
        image = _read_header(data)
        self._header: ImageFile.ImageFile | None = image
        self._orientation = _orientation(image)
        width, height = image.size
        self.size: tuple[int, int] = (height, width) if self._orientation >= 5 else (width, height)
        if image.format not in _DRAFTABLE and width * height > MAX_PIXELS:
            raise Unreadable(f"{width}×{height} pixels are too many to decode; save it smaller, or as JPEG")

    def decode(self, scale: float = 1.0) -> np.ndarray:
        """RGB pixels (h, w, 3) uint8, at the smallest cheap resolution that is at least `scale` times the full one.

        JPEG files are decoded at 1/8, 1/4, 1/2 or 1 of their size (scaling inside the inverse DCT), all others at 1.
        Sides are rounded up. A JPEG of more than `MAX_PIXELS` comes out smaller than asked.
        """
        image = self._header or _read_header(self._data)
        self._header = None  # a header serves one decode: draft alters it
        try:
            pixels = _pixels(image, self._data, scale)
        except Exception as error:  # decoders raise anything at all on broken data
            raise Unreadable(_reason(error)) from error
        return np.ascontiguousarray(_TURN[self._orientation](pixels)) if self._orientation in _TURN else pixels


def _pixels(image: ImageFile.ImageFile, data: bytes, scale: float) -> np.ndarray:
    """A file's pixels as they lie in it, decoded by the fastest way that is right."""
    if image.format in _DRAFTABLE:
        width, height = image.size
        step = _dct_step(width, height, scale)
        if image.mode == "RGB" and min(width, height) >= 8:  # below, other reductions round to the same size
            pixels = _turbo(data, -(-width // step), -(-height // step))
            if pixels is not None:
                return pixels
        image.draft(None, (max(1, width // step), max(1, height // step)))
    image.load()
    return np.array(to_rgb(image))


def _turbo(data: bytes, width: int, height: int) -> np.ndarray | None:
    """A colour JPEG, reduced to this size: Pillow's pixels in less time. None: not without flaws."""
    if simplejpeg is None:
        return None
    try:
        pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=height, min_width=width)
    except ValueError:  # Pillow knows what can be saved of it, and what to say where nothing can
        return None
    return pixels if pixels.shape == (height, width, 3) else None


class RawImage:
    """An image whose pixels are already there: a PIL image, or a (H, W), (H, W, 1) or (H, W, 3) uint8 array."""

    def __init__(self, pixels: Image.Image | np.ndarray):
        if isinstance(pixels, np.ndarray):
            pixels = Image.fromarray(np.ascontiguousarray(pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels))
        self._image = pixels
        self.size: tuple[int, int] = pixels.size

    def decode(self, scale: float = 1.0) -> np.ndarray:
        """RGB pixels (H, W, 3) uint8, at full size whatever the scale."""
        return np.array(to_rgb(self._image))


class DrawnImage:
    """An image that is made when its pixels are asked for.

    Args:
        size: (width, height).
        draw: gives its pixels, (H, W, 3) uint8.
    """

    def __init__(self, size: tuple[int, int], draw: Callable[[], np.ndarray]):
        self.size = size
        self._draw = draw

    def decode(self, scale: float = 1.0) -> np.ndarray:
        """RGB pixels (H, W, 3) uint8, at full size whatever the scale."""
        return self._draw()


def open_image(path: Path) -> EncodedImage:
    """The image file at `path`, with its header read.

    Raises:
        Unreadable: if it cannot be read or is not an image.
    """
    return EncodedImage(_read_bytes(path))


def read_mask(path: Path) -> np.ndarray:
    """A segmentation mask, (H, W) uint8: the palette index, grey value or bit of each pixel is its class.

    Raises:
        Unreadable: if it is not an image of one channel, or has classes above 255.
    """
    image = _read_header(_read_bytes(path))
    try:
        image.load()
    except Exception as error:
        raise Unreadable(_reason(error)) from error
    values = np.asarray(image)
    if image.mode == "RGB" and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or image.mode == "F":
        raise Unreadable(f"a mask holds one class number per pixel (grey or palette PNG), this is {image.mode}")
    if values.dtype != np.bool_ and (values.max(initial=0) > 255 or values.min(initial=0) < 0):
        raise Unreadable(f"mask classes go from 0 to 255, this has {values.min()} to {values.max()}")
    return values.astype(np.uint8)


def to_rgb(image: Image.Image) -> Image.Image:
    """A decoded image of any mode as RGB.

    16-bit grey is divided by 257. 32-bit integers and floats have no fixed range: integers up to 65535 count as 16-bit
    and floats in [0, 1] or [0, 255] are taken at their word; else the image's own extremes become black and white.
    """
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return Image.fromarray(_to_eight_bits(np.asarray(image), floating=image.mode == "F")).convert("RGB")
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":  # Pillow leaves premultiplied grey only by way of straight grey
            image = image.convert("LA")
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray, *, floating: bool) -> np.ndarray:
    values = np.nan_to_num(values.astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = values.min(initial=0), values.max(initial=0)
    if low >= 0 and high <= (1 if floating else 65535):
        low, high = 0.0, 1.0 if floating else 65535.0
    elif floating and low >= 0 and high <= 255:
        low, high = 0.0, 255.0
    return np.round((values - low) * (255 / max(high - low, 1e-12))).astype(np.uint8)


_DRAFTABLE = ("JPEG", "MPO")


def _dct_step(width: int, height: int, scale: float) -> int:
    """The largest reduction of 8, 4, 2, 1 that keeps both sides at `scale` or more; more where memory asks for it."""
    step = next((s for s in (8, 4, 2) if 1 / s >= scale and s <= min(width, height)), 1)
    while step < 8 and width * height > MAX_PIXELS * step * step:
        step *= 2
    return step


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error


def _read_header(data: bytes) -> ImageFile.ImageFile:
    """What `Image.open` does, without its decompression-bomb check, whose limit is shared by the whole process."""
    if not data:
        raise Unreadable("empty file")
    for name in _FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = factory is not None and (accept is None or accept(data[:16]))
        if factory is None or not accepted or isinstance(accepted, str):  # a string says why this Pillow cannot
            continue
        try:
            return factory(io.BytesIO(data), "")
        except Exception as error:
            raise Unreadable(_reason(error)) from error
    raise Unreadable("not an image")


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF (or XMP) orientation that is still to be applied, 1 to 8."""
    if image.format == "TIFF":  # Pillow turns these itself, and gives the turned size
        return 1
    try:
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own getexif would decode the pixels
        return orientation if orientation in _TURN else 1
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


def _reason(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text[0].lower() + text[1:]
