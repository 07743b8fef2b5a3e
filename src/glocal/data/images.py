"""Opening and decoding image files: whatever a folder of photographs holds comes out as 8-bit RGB.

Choices, the same for every file: EXIF orientation is applied; transparency is laid over white; an animation is its
first frame; colour profiles are ignored. 16- and 32-bit grey is windowed: its .5th percentile becomes black and its
99.5th white, or what the person names. Not so where such a file holds an 8-bit image (values up to 255, or multiples of
256 or 257), which it then is, or floats within [0, 1] or [0, 255]. 16-bit colour keeps its upper 8 bits.
"""

import io
import math
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image, ImageFile

from glocal.data.files import MAX_BYTES, read_bytes
from glocal.data.source import Unreadable

Window = tuple[float, float]
"""The values of a 16- or 32-bit image that become black and white."""

_STRIP = 2**20  # pixels converted at once

# By content, not by extension. Named one by one because some of Pillow's other formats run programs (EPS).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
_DRAFTABLE = ("JPEG", "MPO")
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
        data: the bytes of the file; `Unreadable` if it is no image, or one too large to decode.
        window: of 16- and 32-bit grey; None: the image's own.
    """

    def __init__(self, data: bytes, window: Window | None = None):
        self._data, self._window = data, window
        image = read_header(data)
        self._header: ImageFile.ImageFile | None = image
        self._orientation = _orientation(image)
        width, height = image.size
        self.size: tuple[int, int] = (height, width) if self._orientation >= 5 else (width, height)

    def decode(self, scale: float = 1.0) -> np.ndarray:
        """RGB pixels (h, w, 3) uint8, at the smallest cheap resolution that is at least `scale` times the full one.

        JPEG files are decoded at 1/8, 1/4, 1/2 or 1 of their size (scaling inside the inverse DCT), all others at 1.
        Sides are rounded up. A JPEG that would take more than `MAX_BYTES` comes out smaller than asked.
        """
        header = self._header or read_header(self._data)
        self._header = None  # a header serves one decode: draft alters it
        try:
            pixels = _pixels(header, self._data, scale, self._window)
        except Exception as error:  # decoders raise anything at all on broken data
            raise Unreadable(reason(error)) from error
        return np.ascontiguousarray(_TURN[self._orientation](pixels)) if self._orientation in _TURN else pixels


def _pixels(image: ImageFile.ImageFile, data: bytes, scale: float, window: Window | None) -> np.ndarray:
    """A file's pixels as they lie in it, decoded by the fastest way that is right."""
    if image.format in _DRAFTABLE:
        width, height = image.size
        step = _dct_step(image, data, scale)
        if image.mode == "RGB" and min(width, height) >= 8:  # below, other reductions round to the same size
            pixels = _turbo(data, -(-width // step), -(-height // step))
            if pixels is not None:
                return pixels
        image.draft(None, (max(1, width // step), max(1, height // step)))
    image.load()
    pixels = to_rgb(image, window)
    image.close()  # frees Pillow's copy before the pixels are turned
    return pixels


def _turbo(data: bytes, width: int, height: int) -> np.ndarray | None:
    """A colour JPEG, reduced to this size: Pillow's pixels in less time. None: not without flaws."""
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
        return to_rgb(self._image)


@dataclass
class DrawnImage:
    """An image of this size (width, height), drawn when its pixels (H, W, 3) uint8 are asked for."""

    size: tuple[int, int]
    draw: Callable[[], np.ndarray]

    def decode(self, scale: float = 1.0) -> np.ndarray:
        """RGB pixels (H, W, 3) uint8, at full size whatever the scale."""
        return self.draw()


def open_image(path: Path, window: Window | None = None) -> EncodedImage:
    """The image file at `path`, with its header read. `Unreadable` if it cannot be read or is not an image."""
    return EncodedImage(read_bytes(path), window)


def to_rgb(image: Image.Image, window: Window | None = None) -> np.ndarray:
    """A decoded image of any mode as RGB (h, w, 3) uint8, see the top of this file. In strips, to save memory."""
    pixels = np.empty((image.height, image.width, 3), np.uint8)
    wide = image.mode.startswith("I") or image.mode == "F"
    low, high = (window or _own_window(image)) if wide else (0.0, 0.0)
    for rows, strip in strips(image):
        pixels[rows] = _eight_bits(np.asarray(strip), low, high)[..., None] if wide else np.asarray(_rgb(strip))
    return pixels


def strips(image: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """An image in parts of some rows each."""
    step = max(1, _STRIP // image.width)
    for top in range(0, image.height, step):
        yield slice(top, top + step), image.crop((0, top, image.width, min(top + step, image.height)))


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
        if image.mode == "La":  # Pillow leaves premultiplied grey only by way of straight grey
            image = image.convert("LA")
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _own_window(image: Image.Image) -> Window:
    """The values of a wide image that become black and white, from at most some million of its pixels."""
    every = math.ceil((image.width * image.height / 2**20) ** 0.5)
    values = np.concatenate([np.asarray(strip)[::every, ::every].ravel() for _, strip in strips(image)])
    values = values[np.isfinite(values)]
    if not values.size:
        return 0.0, 1.0
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        known = [top for top in (1, 255) if high <= top]
    else:
        known = [255 * unit for unit in (1, 256, 257) if high <= 255 * unit and not (values % unit).any()]
    if low >= 0 and known:
        return 0.0, float(known[0])
    black, white = np.percentile(values, (0.5, 99.5)).tolist()
    return (black, white) if black < white else (low, high)


def _eight_bits(values: np.ndarray, low: float, high: float) -> np.ndarray:
    values = np.nan_to_num(values.astype(np.float64), nan=low, posinf=high, neginf=low)
    return np.round(np.clip((values - low) * (255 / max(high - low, 1e-12)), 0, 255)).astype(np.uint8)


def _dct_step(image: ImageFile.ImageFile, data: bytes, scale: float) -> int:
    """The largest reduction of 8, 4, 2, 1 that keeps both sides at `scale` or more; more where memory asks for it."""
    step = next((s for s in (8, 4, 2) if 1 / s >= scale and s <= min(image.size)), 1)
    while step < 8 and _bytes_needed(image, data, step) > MAX_BYTES:
        step *= 2
    return step


def _bytes_needed(image: ImageFile.ImageFile, data: bytes, step: int = 8) -> int:
    """What decoding takes at most, the file included: the decoder's own, Pillow's (up to 4 a pixel) and ours (3)."""
    pixels = image.width * image.height
    match image.format:
        case "JPEG" | "MPO":
            channels = len(image.layer)  # type: ignore[attr-defined]
            place = image.fp.tell() - 4 - 2 * channels  # type: ignore[union-attr]  # of the number of the first scan's
            at_once = "progressive" not in image.info and data[place] == channels
            return len(data) + 8 * pixels // step**2 + (0 if at_once else 2 * channels * pixels)  # all coefficients
        case "TIFF" if image.info.get("compression") != "raw":  # whole strips or tiles are decompressed at once
            tag = image.tag_v2.get  # type: ignore[attr-defined]
            buffer = max(image.width, tag(322, 0)) * max(image.height, tag(323, 0)) * sum(tag(258, (1,))) // 8
            return 2 * len(data) + 8 * pixels + buffer
    return len(data) + {"WEBP": 17, "AVIF": 20, "JPEG2000": 28}.get(image.format or "", 8) * pixels


def read_header(data: bytes) -> ImageFile.ImageFile:
    """What `Image.open` does, without its decompression-bomb check, whose limit is shared by the whole process.

    `Unreadable` if it is no image, or one that takes more than `MAX_BYTES`.
    """
    if not data:
        raise Unreadable("empty file")
    for name in _FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN.get(name, (None, None))
        accepted = accept is None or accept(data[:16])
        if factory is None or not accepted or isinstance(accepted, str):  # a string says why this Pillow cannot
            continue
        try:
            image = factory(io.BytesIO(data), "")
            needed = _bytes_needed(image, data)
        except Exception as error:
            odd = any(what in str(error) for what in ("pixel mode", "data organization", "samples per pixel"))
            raise Unreadable(_ODD_TIFF if odd else reason(error)) from error
        if image.format in _DRAFTABLE and image.width * image.height > 512 * len(data):
            raise Unreadable("truncated: less than a bit for each 8×8 block")  # and the decoder would make room for all
        if needed > MAX_BYTES:
            raise Unreadable(f"{image.width}×{image.height} pixels would take {needed / 1e9:.1f} GB; save it smaller")
        return image
    raise Unreadable(_DICOM if data[128:132] == b"DICM" else "not an image")


_DICOM = "a DICOM file; write it as PNG first, e.g. with ImageMagick: magick FILE.dcm FILE.png"
_ODD_TIFF = (
    "a TIFF of other channels or bits than Pillow can read; keep three 8-bit ones, or one of 16 bits, e.g. in Python: "
    "tifffile.imwrite('new.tif', tifffile.imread('old.tif')[..., :3])"
)


def _orientation(image: ImageFile.ImageFile) -> int:
    """The EXIF (or XMP) orientation that is still to be applied, 1 to 8."""
    if image.format == "TIFF":  # Pillow turns these itself, and gives the turned size
        return 1
    try:
        orientation = Image.Image.getexif(image).get(_ORIENTATION, 1)  # PNG's own getexif would decode the pixels
        return orientation if orientation in _TURN else 1
    except (SyntaxError, ValueError, TypeError, KeyError, IndexError, OSError, struct.error):
        return 1


def reason(error: Exception) -> str:
    """What a decoder says, as part of a sentence."""
    text = str(error) or type(error).__name__
    return text[0].lower() + text[1:]
