"""Images of all forms, and what happens to files: functions of a generator and of the bytes."""

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

WIDTH, HEIGHT = 53, 37  # not to be found in a file by chance
Damage = Callable[[Random, bytes], bytes]


@lru_cache
def forms() -> dict[str, bytes]:
    """Whole images, each in another form: format, mode, compression, more than one frame, more than four channels."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    picture = Image.fromarray(np.stack([5 * x, 6 * y, 9 * x ^ 5 * y, 255 - 3 * y], axis=-1).astype(np.uint8))
    rgb, grey = picture.convert("RGB"), picture.convert("L")
    wide = Image.fromarray(257 * np.asarray(grey).astype(np.uint16) + x.astype(np.uint16))
    exif, bits, palette, cmyk = Image.Exif(), grey.convert("1"), rgb.quantize(32), rgb.convert("CMYK")
    exif.update({0x0112: 6, 0x010F: "maker", 0x8769: {0x9003: "2020:01:01 00:00:00", 0x829A: (1, 250)}})
    more: dict[str, Any] = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    modes = {
        "jpg": (rgb, grey, cmyk),
        "png": (rgb, picture, grey, grey.convert("LA"), palette, wide, bits),
        "webp": (rgb, picture),
        "bmp": (rgb, grey, palette, picture),
        "tif": (rgb, picture, palette, wide, cmyk, bits, *(grey.convert(mode) for mode in ("I", "F", "LA"))),
        "ppm": (rgb, grey, wide, bits),
        "jp2": (rgb, picture, grey, wide),
        "avif": (rgb, picture),
        "gif": (palette,),
    }
    made = [(f"{image.mode}.{kind}", image, {}) for kind, images in modes.items() for image in images]
    made += [(f"animated.{kind}", rgb, more) for kind in ("png", "webp", "gif", "tif", "avif", "mpo")]
    made += [(f"exif.{kind}", rgb, {"exif": exif}) for kind in ("jpg", "png", "webp")]
    made += [(f"{name}.tif", rgb, {"compression": name}) for name in ("jpeg", "tiff_lzw", "packbits")]
    made += [
        ("deflated.tif", wide, {"compression": "tiff_adobe_deflate"}),
        ("fax.tif", bits, {"compression": "group4"}),
    ]
    made += [("progressive.jpg", rgb, {"progressive": True}), ("lossless.webp", picture, {"lossless": True})]
    made += [("transparent.png", palette, {"transparency": bytes(range(32))})]
    saved = {f"{n} × {bits}.tif": tiff(n, bits) for n, bits in ((3, 16), (4, 8), (5, 8), (7, 16))}
    for name, image, options in made:
        later = {key: [frame.copy() for frame in value] for key, value in options.items() if key == "append_images"}
        kind = {"jpg": "JPEG", "jp2": "JPEG2000", "tif": "TIFF"}.get(name.rpartition(".")[2], name.rpartition(".")[2])
        image.copy().save(file := io.BytesIO(), kind, **options | later)  # what was saved remembers how
        saved[name] = file.getvalue()
    return saved


def tiff(channels: int, bits: int) -> bytes:
    """An uncompressed TIFF of any number of channels; Pillow writes four at most."""
    pixels = Random(0).randbytes(WIDTH * HEIGHT * channels * bits // 8)
    tags = {256: WIDTH, 257: HEIGHT, 258: 8 + len(pixels), 259: 1, 262: 2, 273: 8, 277: channels, 278: HEIGHT}
    fields = [struct.pack("<HHII", tag, *((3, channels) if tag == 258 else (4, 1)), at) for tag, at in tags.items()]
    fields.append(struct.pack("<HHII", 279, 4, 1, len(pixels)))
    sizes = struct.pack(f"<{channels}H", *[bits] * channels)
    start = struct.pack("<2sHI", b"II", 42, 8 + len(pixels + sizes))
    return start + pixels + sizes + struct.pack("<H", len(fields)) + b"".join(fields) + bytes(4)


def truncated(draw: Random, data: bytes) -> bytes:
    return data[: draw.randrange(len(data))]


def flipped(draw: Random, data: bytes) -> bytes:
    """Some bytes others; as often among the first hundred as anywhere."""
    changed = bytearray(data)
    for _ in range(draw.choice((1, 1, 2, 5, 20, 100))):
        changed[draw.randrange(min(len(data), draw.choice((100, len(data)))))] ^= draw.randint(1, 255)
    return bytes(changed)


def zeroed(draw: Random, data: bytes) -> bytes:
    """A stretch of zeros, as an interrupted copy leaves it, or nothing else, or nothing at all."""
    start, stop = sorted(draw.randrange(len(data) + 1) for _ in range(2))
    return draw.choice((data[:start] + bytes(stop - start) + data[stop:], bytes(len(data)), b""))


def headed(draw: Random, data: bytes) -> bytes:
    """The beginning of another kind of file, before or instead of its own."""
    other, length = draw.choice([*forms().values(), *FOREIGN]), draw.choice((2, 4, 8, 12, 16, 32, 64))
    return other[:length] + data[draw.choice((0, length)) :]


def spliced(draw: Random, data: bytes) -> bytes:
    """The beginning of one file and the end of another."""
    other = draw.choice([*forms().values(), data])
    return data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]


FOREIGN = (
    b"%PDF-1.7\n1 0 obj\n<</Type/Catalog>>\nendobj\n",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\nshowpage\n",
    b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    b"\x93NUMPY\1\0v\0{'descr': '|u1', 'fortran_order': False, 'shape': (3,), }",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    *(b"PK\3\4\24\0\0\0\10\0", b"\x1f\x8b\x08\0\0\0\0\0\0\3", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
    *(
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\x7fELF\2\1\1\0",
        b"8BPS\0\1\0\0\0\0\0\0\0\3",
        b"\xff\xfet\0e\0x\0t\0",
        b'{"a": [1, 2',
    ),
)


def foreign(draw: Random, data: bytes) -> bytes:
    """A file of another kind altogether."""
    return draw.choice(FOREIGN) * draw.choice((1, 1, 50)) + draw.randbytes(draw.randint(0, 500))


def absurd_size(draw: Random, data: bytes) -> bytes:
    """Another width or height, wherever the file says it, up to more than any memory."""
    new = {was: draw.choice((was, 0, draw.randint(1, 300), int(2 ** draw.uniform(8, 32)))) for was in (WIDTH, HEIGHT)}
    for code in (">II", "<II", ">HH", "<HH"):
        most = 256 ** (struct.calcsize(code) // 2)
        for pair in ((WIDTH, HEIGHT), (HEIGHT, WIDTH)):
            data = data.replace(struct.pack(code, *pair), struct.pack(code, *(new[was] % most for was in pair)))
    for tag, kind, was in ((256, 3, WIDTH), (256, 4, WIDTH), (257, 3, HEIGHT), (257, 4, HEIGHT)):  # of a TIFF
        there, then = (struct.pack("<HHII", tag, kind, 1, side % 2**32) for side in (was, new[was]))
        data = data.replace(there, then)
    there, then = (b"".join(struct.pack("<I", (s - 1) % 2**32)[:3] for s in sides) for sides in (new, new.values()))
    data = data.replace(there, then).replace(b"%d %d" % (*new,), b"%d %d" % (*new.values(),))  # WebP, PPM
    if data[:4] == b"\x89PNG":  # whose header has a checksum
        data = data[:29] + struct.pack(">I", zlib.crc32(data[12:29])) + data[33:]
    return data


def broken_exif(draw: Random, data: bytes) -> bytes:
    """A photograph whose EXIF block is damaged."""
    image = Image.open(io.BytesIO(forms()["exif.jpg"]))
    exif = draw.choice((truncated, flipped, flipped, flipped, zeroed, spliced))(draw, image.info["exif"])
    image.save(file := io.BytesIO(), draw.choice(("JPEG", "PNG", "WEBP")), exif=exif)
    return file.getvalue()


def dicom(draw: Random, data: bytes) -> bytes:
    preamble = draw.choice((bytes(128), data[:128].ljust(128, b"\0")))
    return preamble + b"DICM" + draw.choice((draw.randbytes(300), data))


WORDS = "null true [] {} [1,2] -1 0 1e999 .nan 99999999999999999999 0x1F 2024-13-45 12:30:61 ~ '' & * ! @ - : % a,b"
ODD = "x" * 300, "[" * 2000, "é\x1b[31m", "{a: {a: {a: 1}}}", "../../..", "os:system", '"\\u0000"', "\0", "\udcff", ""


def reworded(draw: Random, data: bytes) -> bytes:
    """A text in which some values, names or marks are others."""
    parts = re.split(r"([\w.+-]+|\n)", data.decode(errors="surrogateescape"))
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        parts[draw.randrange(len(parts))] = draw.choice([*WORDS.split(" "), *ODD, draw.choice(parts)])
    return "".join(parts).encode(errors="surrogateescape")


ANY: dict[str, Damage] = {"truncated": truncated, "bytes flipped": flipped, "zeros": zeroed}
ANY |= {"another's header": headed, "two files in one": spliced, "another kind of file": foreign}
TEXT: dict[str, Damage] = {**ANY, "other values": reworded, "more other values": reworded}
IMAGE: dict[str, Damage] = {"whole": lambda draw, data: data, **ANY}
IMAGE |= {"absurd size": absurd_size, "broken EXIF": broken_exif, "DICOM header": dicom}
