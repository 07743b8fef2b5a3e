"""Files of all kinds, whole and damaged, made of a seed."""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from functools import lru_cache
from random import Random
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 53, 37  # not to be found in a header by chance
Damage = Callable[[Random, bytes], bytes]


@lru_cache
def forms() -> dict[str, bytes]:
    """Whole images, each in another form: its extension after the last dot."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    rgba = np.stack([5 * x, 6 * y, 2 * (x + y), 255 - 3 * y], axis=-1).astype(np.uint8)
    rgba[..., :3] ^= np.random.default_rng(0).integers(0, 16, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    picture = Image.fromarray(rgba)
    rgb, grey = picture.convert("RGB"), picture.convert("L")
    wide = Image.fromarray(257 * np.asarray(grey).astype(np.uint16) + x.astype(np.uint16))
    palette, frames = rgb.quantize(32), {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    exif = Image.Exif()
    exif.update({0x0112: 6, 0x010F: "maker", 0x8769: {0x9003: "2020:01:01 00:00:00", 0x829A: (1, 250)}})
    made: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        **{f"{im.mode}.jpg": (im, "JPEG", {}) for im in (rgb, grey, rgb.convert("CMYK"))},
        "progressive.jpg": (rgb, "JPEG", {"progressive": True}),
        "exif.jpg": (rgb, "JPEG", {"exif": exif}),
        "several.mpo": (rgb, "MPO", frames),
        **{f"{im.mode}.png": (im, "PNG", {}) for im in (rgb, picture, grey, grey.convert("LA"), palette, wide)},
        "1.png": (grey.convert("1"), "PNG", {}),
        "transparent palette.png": (palette, "PNG", {"transparency": bytes(range(32))}),
        "exif.png": (rgb, "PNG", {"exif": exif}),
        "animated.png": (rgb, "PNG", frames),
        **{f"{im.mode}.webp": (im, "WEBP", {}) for im in (rgb, picture)},
        "lossless.webp": (picture, "WEBP", {"lossless": True, "exif": exif}),
        "animated.webp": (rgb, "WEBP", frames),
        "still.gif": (palette, "GIF", {}),
        "animated.gif": (palette, "GIF", frames),
        **{f"{im.mode}.bmp": (im, "BMP", {}) for im in (rgb, grey, palette, picture)},
        **{f"{im.mode}.tif": (im, "TIFF", {}) for im in (rgb, picture, palette, wide, rgb.convert("CMYK"))},
        **{f"{mode}.tif": (grey.convert(mode), "TIFF", {}) for mode in ("1", "I", "F", "LA")},
        **{f"{name}.tif": (rgb, "TIFF", {"compression": name}) for name in ("jpeg", "tiff_lzw", "packbits")},
        "deflated 16 bit.tif": (wide, "TIFF", {"compression": "tiff_adobe_deflate"}),
        "fax.tif": (grey.convert("1"), "TIFF", {"compression": "group4"}),
        "several.tif": (rgb, "TIFF", frames),
        **{f"{im.mode}.ppm": (im, "PPM", {}) for im in (rgb, grey, wide, grey.convert("1"))},
        **{f"{im.mode}.jp2": (im, "JPEG2000", {}) for im in (rgb, picture, grey, wide)},
        **{f"{im.mode}.avif": (im, "AVIF", {"quality": 60, "max_threads": 1}) for im in (rgb, picture)},
        "animated.avif": (rgb, "AVIF", {**frames, "max_threads": 1}),
    }
    saved = {}
    for name, (image, format, options) in made.items():
        later = {key: [frame.copy() for frame in value] for key, value in options.items() if key == "append_images"}
        image.copy().save(file := io.BytesIO(), format, **options | later)  # what was saved remembers how
        saved[name] = file.getvalue()
    for channels, bits in ((3, 16), (4, 8), (5, 8), (7, 16), (2, 32)):
        saved[f"{channels} channels of {bits} bits.tif"] = _tiff(channels, bits)
    return saved


def _tiff(channels: int, bits: int) -> bytes:
    """An uncompressed TIFF of many channels; Pillow writes none."""
    pixels = bytes(np.random.default_rng(1).integers(0, 256, WIDTH * HEIGHT * channels * bits // 8, dtype=np.uint8))
    sizes, at = struct.pack(f"<{channels}H", *[bits] * channels), 8 + len(pixels)
    many = struct.unpack("<I", sizes.ljust(4, b"\0"))[0] if channels < 3 else at
    tags = [(256, WIDTH), (257, HEIGHT), (258, many), (259, 1), (262, 2 if channels > 2 else 1), (273, 8)]
    tags += [(277, channels), (278, HEIGHT), (279, len(pixels))]
    entries = b"".join(struct.pack("<HHII", tag, *((3, channels) if tag == 258 else (4, 1)), v) for tag, v in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, at + len(sizes)) + pixels + sizes + directory


def some_bytes(draw: Random, most: int) -> bytes:
    return draw.randbytes(draw.randint(0, most))


def truncated(draw: Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def flipped(draw: Random, data: bytes) -> bytes:
    """Some bytes others; as often in the first hundred as anywhere."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20, 100))):
        changed[draw.randrange(min(len(data), draw.choice((100, len(data)))))] ^= draw.randint(1, 255)
    return bytes(changed)


def zeroed(draw: Random, data: bytes) -> bytes:
    """A stretch of zeros, as an interrupted copy leaves it; perhaps all of the file, or no file at all."""
    start, stop = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice((data[:start] + bytes(stop - start) + data[stop:], data[:start].ljust(len(data), b"\0"), b"\0"))


def wrong_header(draw: Random, data: bytes) -> bytes:
    """The beginning of another kind of file."""
    other = draw.choice([*forms().values(), *FOREIGN])
    length = draw.choice((2, 4, 8, 12, 16, 32, 64))
    return other[:length] + data[draw.choice((0, length)) :]


def spliced(draw: Random, data: bytes) -> bytes:
    """Two halves that were not one file, or one file twice."""
    other = draw.choice([*forms().values(), data])
    return data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


FOREIGN = (
    b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    b"PK\3\4\24\0\0\0\10\0",
    b"\x1f\x8b\x08\0\0\0\0\0\0\3",
    b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
    b"RIFF\x24\0\0\0WAVEfmt ",
    b"\x7fELF\2\1\1\0",
    b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }",
    b"\x80\4\x95\x0b\0\0\0\0\0\0\0\x8c\7builtins\x94.",
    b"8BPS\0\1\0\0\0\0\0\0\0\3",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    b"\xff\xfet\0e\0x\0t\0",
    b'{"a": [1, 2',
)


def foreign(draw: Random, data: bytes) -> bytes:
    """A file of another kind altogether."""
    return draw.choice(FOREIGN) * draw.choice((1, 1, 50)) + some_bytes(draw, 500)


def absurd_size(draw: Random, data: bytes) -> bytes:
    """Another width or height, wherever the file says it, up to more than any memory."""
    new = {was: draw.choice((was, 0, draw.randint(1, 300), int(2 ** draw.uniform(8, 32)))) for was in (WIDTH, HEIGHT)}
    for code in (">II", "<II", ">HH", "<HH"):
        most = 256 ** (struct.calcsize(code) // 2)
        for pair in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
            data = data.replace(struct.pack(code, *pair), struct.pack(code, *(new[was] % most for was in pair)))
    for tag, was in ((256, WIDTH), (257, HEIGHT)):  # of a TIFF
        for kind in (3, 4):
            there, then = (struct.pack("<HHII", tag, kind, 1, side % 2**32) for side in (was, new[was]))
            data = data.replace(there, then)
    three, then = (
        b"".join(struct.pack("<I", (side - 1) % 2**32)[:3] for side in sides) for sides in (new, new.values())
    )
    data = data.replace(three, then).replace(b"%d %d" % (*new,), b"%d %d" % (*new.values(),))  # WebP, PPM
    if data[:4] == b"\x89PNG":  # whose header has a checksum
        data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    return data


def broken_exif(draw: Random, data: bytes) -> bytes:
    """A photograph with an EXIF block that is none, or no longer."""
    exif = Image.open(io.BytesIO(forms()["exif.jpg"])).info["exif"]
    exif = draw.choice((truncated, flipped, flipped, flipped, zeroed, spliced))(draw, exif)
    image = Image.open(io.BytesIO(forms()["exif.jpg"]))
    format = draw.choice(("JPEG", "PNG", "WEBP", "TIFF"))
    try:
        image.save(file := io.BytesIO(), format, exif=draw.choice((b"", b"Exif\0\0")) + exif)
    except Exception:  # Pillow reads what it writes into some formats
        image.save(file := io.BytesIO(), "JPEG", exif=b"Exif\0\0" + exif)
    return file.getvalue()


def dicom(draw: Random, data: bytes) -> bytes:
    preamble = draw.choice((bytes(128), data[:128].ljust(128, b"\0")))
    return preamble + b"DICM" + draw.choice((some_bytes(draw, 300), data))


WORDS = "null true [] {} [1,2] -1 0 1e999 .nan 99999999999999999999 0x1F 2024-13-45 12:30:61 ~ '' & * ! @ - : % a,b"
ODD = "x" * 5000, "[" * 2000, "é\x1b[31m", "{a: {a: {a: 1}}}", "../../..", "os:system", '"\\u0000"', "\0", "\udcff"
VALUES = [*WORDS.split(" "), *ODD]


def other_values(draw: Random, data: bytes) -> bytes:
    """A text in which some values, names or lines are others."""
    parts = re.split(r"([\w.+-]+|\n)", data.decode(errors="surrogateescape"))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        parts[draw.randrange(len(parts))] = draw.choice([*VALUES, "", draw.choice(parts)])
    return "".join(parts).encode(errors="surrogateescape")


ANY: dict[str, Damage] = {
    "truncated": truncated,
    "bytes flipped": flipped,
    "zeros": zeroed,
    "another's header": wrong_header,
    "two files in one": spliced,
    "another kind of file": foreign,
}
TEXT: dict[str, Damage] = {**ANY, "other values": other_values, "other values, again": other_values}
IMAGE: dict[str, Damage] = {
    "whole": lambda draw, data: data,
    **ANY,
    "absurd size": absurd_size,
    "broken EXIF": broken_exif,
    "DICOM header": dicom,
}
