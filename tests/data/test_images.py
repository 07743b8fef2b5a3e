"""Every odd kind of image file comes out as the RGB it should, or as one clear `Unreadable`."""

from __future__ import annotations

import io
import json
import os
import struct
import subprocess
import sys
import textwrap
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from glocal.data import FileListSource, FolderSource, has_split, images, open_source
from glocal.data.images import EncodedImage, RawImage, open_image, to_rgb
from glocal.data.masks import read_mask
from glocal.data.source import Unreadable
from glocal.errors import UsageError


def saved(image: Image.Image, kind: str = "png", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, {"jpg": "jpeg", "tif": "tiff"}.get(kind, kind), **options)
    return file.getvalue()


def decoded(data: bytes, scale: float = 1.0) -> np.ndarray:
    image = EncodedImage(data)
    result = image.decode(scale)
    assert result.dtype == np.uint8
    assert result.shape[2:] == (3,)
    if scale == 1:
        assert result.shape[1::-1] == image.size
    return result


def scene(width: int, height: int) -> Image.Image:
    """A smooth picture without symmetry."""
    x, y = np.linspace(0, 1, width)[None, :], np.linspace(0, 1, height)[:, None]
    channels = (255 * x + 0 * y, 255 * y + 0 * x, 255 * np.clip(1.5 * x * y - 0.2, 0, 1))
    return Image.fromarray(np.stack(channels, -1).astype(np.uint8))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "bmp", "tif", "ppm", "avif", "jpeg2000"])
def test_every_kind_keeps_its_colour(kind):
    try:
        data = saved(Image.new("RGB", (24, 16), (200, 60, 20)), kind)
    except (KeyError, OSError):
        pytest.skip(f"this Pillow cannot write {kind}")
    pixels = decoded(data)
    assert pixels.shape == (16, 24, 3)
    assert np.abs(pixels.astype(int) - (200, 60, 20)).max() <= 6


@pytest.mark.parametrize("kind", ["jpg", "tif"])
def test_cmyk_red_stays_red(kind):
    pixels = decoded(saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), kind))
    assert np.abs(pixels.astype(int) - (255, 0, 0)).max() <= 3


@pytest.mark.parametrize("kind", ["png", "tif"])
@pytest.mark.parametrize("unit", [1, 256, 257])
def test_an_eight_bit_image_in_a_sixteen_bit_file_is_that_image(kind, unit):
    ramp = np.array([[0, 1, 128, 255]], dtype=np.uint16).repeat(3, 0) * unit
    pixels = decoded(saved(Image.fromarray(ramp.astype(np.uint16)), kind))
    assert pixels[1, :, 0].tolist() == [0, 1, 128, 255]
    assert (pixels == pixels[..., :1]).all()


@pytest.mark.parametrize("kind", ["png", "tif"])
def test_sixteen_bits_are_windowed_by_percentiles(kind):
    """Twelve bits of a detector, two dead pixels: not twelve of 65,536 values."""
    values = np.linspace(1000, 5000, 400).round().astype(np.uint16).reshape(20, 20)
    values[0, 0], values[-1, -1] = 0, 65535
    pixels = decoded(saved(Image.fromarray(values), kind))[..., 0].ravel()
    low, high = np.percentile(values, (0.5, 99.5))
    expected = np.clip((values.ravel() - low) / (high - low), 0, 1) * 255
    assert np.abs(pixels - expected).max() <= 0.51
    assert len(np.unique(pixels)) > 200


def test_a_window_can_be_given(tmp_path):
    values = np.array([[0, 1000, 1500, 2000, 65535]], np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    Image.fromarray(np.array([[0, 128, 255]], np.uint8)).save(tmp_path / "b.png")
    (tmp_path / "list.txt").write_text("a.png\nb.png\n")
    for source in (
        FolderSource(tmp_path, window=(1000, 2000)),
        open_source(f"window:1000,2e3,{tmp_path}"),
        open_source(f"window:1000,2e3,{tmp_path / 'list.txt'}"),
        FileListSource(tmp_path / "list.txt", window=(1000, 2000)),
    ):
        assert source.open(0).decode()[0, :, 0].tolist() == [0, 0, 128, 255, 255]
        assert source.open(1).decode()[0, :, 0].tolist() == [0, 128, 255]  # has its eight bits
        assert source.fingerprint() != FolderSource(tmp_path).fingerprint()


def test_a_window_keeps_the_splits_and_is_two_values_and_a_place(photos):
    spec = f"window:10,20,{photos}"
    assert has_split(spec, "test")
    assert not has_split(spec, "val")
    assert [len(open_source(spec, split=split)) for split in (None, "test", "all")] == [15, 9, 24]
    for wrong in ("10", "10,20", "20,10,x", "a,b,x", "10,20,"):
        with pytest.raises(UsageError, match="window:LO,HI,FOLDER"):
            open_source(f"window:{wrong}")
    with pytest.raises(UsageError, match="gone"):
        open_source("window:10,20,gone")


def test_a_window_of_one_value_is_that_of_the_extremes():
    values = np.zeros((40, 40), np.uint16)
    values[0, 0] = 999
    assert np.unique(decoded(saved(Image.fromarray(values)))).tolist() == [0, 255]
    assert (decoded(saved(Image.new("I;16", (8, 8), 999))) == 0).all()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.array([[0, 32768, 65535]], np.int32), [0, 128, 255]),  # 16-bit in disguise
        (np.array([[-100, 0, 100]], np.int32), [0, 128, 255]),  # no known range: the image's own
        (np.array([[0, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[0, 128, 255]], np.float32), [0, 128, 255]),
        (np.array([[np.nan, 0.5, 1]], np.float32), [0, 128, 255]),
        (np.array([[7, 7, 7]], np.int32) - 10, [0, 0, 255]),
    ],
)
def test_wide_types(values, expected):
    if values.min() < 0 and values.max() < 0:
        values, expected = values - values, [0, 0, 0]
    pixels = np.asarray(to_rgb(Image.fromarray(values)))
    assert np.abs(pixels[0, :, 0].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_over_white(mode):
    image = Image.new("RGBA", (3, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (0, 0, 0, 255))
    image.putpixel((2, 0), (0, 0, 0, 128))
    if mode == "PA":
        image = Image.new("P", (3, 1)).convert("PA")
        for x, alpha in enumerate((0, 255, 128)):
            image.putpixel((x, 0), (0, alpha))
        pixels = np.asarray(to_rgb(image))
    else:
        pixels = decoded(saved(image.convert(mode), "png"))
    assert pixels[0, :, 0].tolist() == [255, 0, 127]


def test_palette_with_and_without_transparency():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    assert decoded(saved(image)).tolist() == [[[10, 20, 30], [200, 100, 50]]]
    assert decoded(saved(image, transparency=0)).tolist() == [[[255, 255, 255], [200, 100, 50]]]
    assert decoded(saved(image, transparency=bytes([255, 0]))).tolist() == [[[10, 20, 30], [255, 255, 255]]]
    assert decoded(saved(image, "gif", transparency=0))[0].tolist() == [[255, 255, 255], [200, 100, 50]]


def test_colour_key_transparency_of_rgb_and_grey():
    assert decoded(saved(Image.new("RGB", (1, 1), (9, 9, 9)), transparency=(9, 9, 9))).tolist() == [[[255] * 3]]
    assert decoded(saved(Image.new("L", (1, 1), 9), transparency=9)).tolist() == [[[255] * 3]]


def test_one_bit():
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    assert decoded(saved(image))[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize("kind", ["gif", "webp", "png", "tif"])
def test_animation_is_its_first_frame(kind):
    frames = [Image.new("RGB", (16, 16), color) for color in ("red", "blue", "green")]
    options = {"lossless": True} if kind == "webp" else {}
    pixels = decoded(saved(frames[0], kind, save_all=True, append_images=frames[1:], **options))
    assert (pixels == (255, 0, 0)).all()


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("scale", [1.0, 0.25])
def test_exif_orientation(kind, orientation, scale):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = saved(scene(96, 64), kind, exif=exif, **({"quality": 95} if kind == "jpg" else {}))
    with Image.open(io.BytesIO(data)) as reference:
        upright = ImageOps.exif_transpose(reference).convert("RGB")
    opened = EncodedImage(data)
    assert opened.size == upright.size == ((64, 96) if orientation >= 5 else (96, 64))
    small = opened.decode(scale)
    if scale == 1:
        assert np.array_equal(np.asarray(small), np.asarray(upright))
    else:
        factor = 4 if kind == "jpg" else 1
        assert small.shape == (upright.height // factor, upright.width // factor, 3)
        expected = np.asarray(upright.reduce(factor) if factor > 1 else upright).astype(int)
        assert np.abs(np.asarray(small) - expected).mean() < 2


@pytest.mark.parametrize(
    ("kind", "value"),
    [(3, b"\0\0\0\0"), (3, b"\0\t\0\0"), (3, b"\0\xff\0\0"), (2, b"6\0\0\0"), (7, b"6\0\0\0")],
)
def test_orientations_that_there_are_not_count_as_upright(kind, value):
    count = 1 if kind == 3 else 2  # a number, text, anything
    entry = b"\x01\x12" + kind.to_bytes(2, "big") + count.to_bytes(4, "big") + value
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + entry + b"\0\0\0\0"
    opened = EncodedImage(saved(scene(96, 64), "jpg", exif=exif))
    assert opened.size == (96, 64)
    assert opened.decode().shape == (64, 96, 3)


def test_multi_picture_files_of_phones():
    exif = Image.Exif()
    exif[0x0112] = 6
    frames = [scene(96, 64), scene(48, 32)]
    opened = EncodedImage(saved(frames[0], "mpo", save_all=True, append_images=frames[1:], exif=exif))
    assert opened.size == (64, 96)
    assert opened.decode(0.25).shape == (24, 16, 3)


def test_broken_exif_is_no_reason_to_lose_the_image():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert decoded(saved(scene(16, 8), "jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x05\x01\x12")).shape == (8, 16, 3)


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("size", [(640, 480), (501, 333), (7, 300), (15, 16)])
def test_jpeg_scale_is_the_smallest_that_suffices(mode, size):
    opened = EncodedImage(saved(scene(*size).convert(mode), "jpg"))
    for scale in (1, 0.9, 0.51, 0.5, 0.3, 0.25, 0.2, 0.125, 0.01):
        got = EncodedImage(opened._data).decode(scale).shape[1::-1]
        step = max(s for s in (1, 2, 4, 8) if s == 1 or (1 / s >= scale and s <= min(size)))
        assert got == tuple(-(-side // step) for side in size)
        assert all(g >= scale * side for g, side in zip(got, size, strict=True))
    assert opened.size == size


def test_reduced_jpeg_shows_the_same_picture():
    data = saved(scene(320, 240), "jpg", quality=95)
    for scale, step in ((0.5, 2), (0.25, 4), (0.125, 8)):
        difference = decoded(data, scale).astype(int) - np.asarray(scene(320, 240).reduce(step))
        assert np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("options", [{"subsampling": k, "quality": 85} for k in (0, 1, 2)] + [{"progressive": True}])
@pytest.mark.parametrize("size", [(320, 241), (15, 16), (8, 9), (333, 501)])
@pytest.mark.parametrize("scale", [1, 0.5, 0.25, 0.125])
def test_the_faster_decoder_gives_the_same_pixels(options, size, scale, monkeypatch):
    noise = np.random.default_rng(0).normal(0, 20, (size[1], size[0], 3))
    data = saved(Image.fromarray((np.asarray(scene(*size)) + noise).clip(0, 255).astype(np.uint8)), "jpg", **options)
    fast = decoded(data, scale)
    assert images._turbo(data, fast.shape[1], fast.shape[0]) is not None  # it was really that one
    monkeypatch.setattr(images, "_turbo", lambda *_: None)
    slow = decoded(data, scale)
    assert fast.shape == slow.shape
    assert np.abs(fast.astype(int) - slow).max() <= 2  # another build of the same library may round otherwise


@pytest.mark.parametrize("side", [3, 5, 7])
def test_tiny_images_are_pillows(side, monkeypatch):
    data = saved(Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)), "jpg")
    ours = decoded(data, 0.5)
    monkeypatch.setattr(images, "_turbo", lambda *_: None)
    assert np.array_equal(ours, decoded(data, 0.5))


def test_a_flaw_that_pillow_forgives_is_forgiven():
    data = saved(scene(64, 48), "jpg")
    middle = len(data) // 2
    flawed = data[:middle] + b"\xff\x00" * 4 + data[middle:]
    with Image.open(io.BytesIO(flawed)) as reference:
        expected = np.array(reference.convert("RGB"))
    assert images._turbo(flawed, 64, 48) is None
    assert np.array_equal(decoded(flawed), expected)


def test_decoding_again_gives_the_same_pixels():
    data = saved(scene(64, 48), "jpg")
    opened = EncodedImage(data)
    first, small, second = opened.decode(), opened.decode(0.25), opened.decode()
    assert np.array_equal(first, second)
    assert np.array_equal(small, EncodedImage(data).decode(0.25))


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "gif", "tif", "bmp"])
def test_truncated_files_are_unreadable(kind):
    rng = np.random.default_rng(0)
    data = saved(Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)), kind)
    for part in (0.02, 0.5, 0.9):
        with pytest.raises(Unreadable) as error:
            EncodedImage(data[: int(len(data) * part)]).decode()
        assert 0 < len(str(error.value)) < 120
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("data", [b"", b"\xff", b"<html>not found</html>", bytes(1000), b"\xff\xd8\xff" + bytes(99)])
def test_not_images(data):
    with pytest.raises(Unreadable):
        EncodedImage(data)


def test_postscript_is_not_handed_to_another_program():
    with pytest.raises(Unreadable, match="not an image"):
        EncodedImage(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n")


def test_enormous_images(monkeypatch):
    """No warning, no error from Pillow's own limit; JPEG scaled down, others refused in words."""
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    monkeypatch.setattr(images, "MAX_BYTES", 60_000)
    monkeypatch.setattr(images, "_STRIP", 1000)
    big = scene(256, 192)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jpeg = EncodedImage(saved(big, "jpg"))
        assert jpeg.size == (256, 192)
        assert jpeg.decode().shape == (48, 64, 3)
        with pytest.raises(Unreadable, match=r"256×192 pixels would take 0.0 GB; save it smaller"):
            EncodedImage(saved(big, "png"))


def test_bomb_header_is_refused_before_memory_is_taken(tmp_path):
    """A PNG that says it has 60,000 × 60,000 pixels."""
    data = bytearray(saved(Image.new("L", (1, 1))))
    data[16:24] = struct.pack(">II", 60000, 60000)
    data[29:33] = struct.pack(">I", zlib.crc32(bytes(data[12:29])))
    with pytest.raises(Unreadable, match=r"60000×60000 pixels would take 28\.8 GB"):
        EncodedImage(bytes(data))
    (tmp_path / "m.png").write_bytes(data)
    with pytest.raises(Unreadable, match="60000×60000"):
        read_mask(tmp_path / "m.png")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_no_file_stays_open(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved(scene(32, 32), "jpg"))
    before = len(os.listdir("/proc/self/fd"))
    kept = [open_image(path) for _ in range(20)]
    kept[0].decode()
    assert len(os.listdir("/proc/self/fd")) == before


def test_missing_file_is_unreadable(tmp_path):
    with pytest.raises(Unreadable, match="No such file"):
        open_image(tmp_path / "gone.jpg")


def test_raw_images():
    grey = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert np.array_equal(RawImage(grey).decode()[..., 1], grey)
    assert np.array_equal(RawImage(grey[..., None]).decode(0.1)[..., 2], grey)
    assert RawImage(grey).size == (3, 2)


def tiff(channels: int) -> bytes:
    """A 2×2 TIFF of some 8-bit channels that are not said to be colours."""
    tags = [(256, 2), (257, 2), (258, 8), (259, 1), (262, 1), (273, 8), (277, channels), (278, 2), (279, 4 * channels)]
    pixels = bytes(4 * channels)
    entries = b"".join(struct.pack("<HHIHH", tag, 3, 1, value, 0) for tag, value in tags)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_channels_that_are_no_colours_are_refused_with_the_way_out():
    assert decoded(tiff(1)).shape == (2, 2, 3)
    for channels in (4, 5, 13):
        with pytest.raises(Unreadable, match=r"keep three 8-bit ones.*tifffile\.imwrite") as error:
            EncodedImage(tiff(channels))
        assert "\n" not in str(error.value)


def test_dicom_is_refused_with_the_way_out(tmp_path):
    data = bytes(128) + b"DICM" + bytes(100)
    with pytest.raises(Unreadable, match=r"a DICOM file; .*magick FILE\.dcm FILE\.png"):
        EncodedImage(data)
    (tmp_path / "a.dcm").write_bytes(data)
    with pytest.raises(UsageError, match=r"only \.dcm ×1; .*magick mogrify -format png \*\.dcm"):
        FolderSource(tmp_path)


def test_the_header_of_a_large_jpeg_takes_no_memory():
    data = bytearray(saved(Image.new("RGB", (64, 64)), "jpg", progressive=True))
    place = data.index(b"\xff\xc2") + 5
    data[place : place + 4] = struct.pack(">HH", 14000, 14000)
    with pytest.raises(Unreadable, match="truncated"):
        EncodedImage(bytes(data))


MEASURE = """
import json, os, resource, sys
from pathlib import Path
from PIL import Image
from glocal.data import images, masks
Image.init()
images._STRIP = 2**16
unit = 1 if sys.platform == "darwin" else 1024

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

for path in map(Path, sys.argv[1:]):
    reader, writer = os.pipe()
    if not os.fork():
        before = peak()
        if path.stem == "mask":
            masks.read_mask(path, (0xFF, 0xFFFFFFFF))
            needed = images._bytes_needed(images.read_header(path.read_bytes()), path.read_bytes())
        else:
            opened = images.open_image(path)
            needed = images._bytes_needed(opened._header, opened._data, 1)
            opened.decode()
        print(json.dumps([path.name, peak() - before, needed]), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="measures in children")
def test_decoding_takes_no_more_memory_than_it_is_said_to(tmp_path):
    """Measured, for every kind of file: at most what an image is refused for, and 16 bits as little as 8."""
    side = 1800
    photo = scene(side, side)
    wide = Image.fromarray(np.asarray(photo)[..., 0].astype(np.uint16) * 99)
    photo.save(tmp_path / "rgb.png", compress_level=1)
    photo.convert("RGBA").save(tmp_path / "rgba.png", compress_level=1)
    photo.save(tmp_path / "lzw.tif", compression="tiff_lzw", tiffinfo={278: side})
    photo.save(tmp_path / "raw.tif")
    photo.save(tmp_path / "a.webp", method=0)
    photo.save(tmp_path / "a.gif")
    photo.save(tmp_path / "turned.jpg", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0")
    photo.save(tmp_path / "progressive.jpg", progressive=True, subsampling=0)
    photo.convert("CMYK").save(tmp_path / "cmyk.jpg", progressive=True)
    wide.save(tmp_path / "wide.png", compress_level=1)
    wide.save(tmp_path / "wide.tif")
    Image.fromarray((np.asarray(photo) > 127).astype(np.uint8) * 255).convert("L").save(tmp_path / "mask.png")
    command = [sys.executable, "-c", textwrap.dedent(MEASURE), *map(str, sorted(tmp_path.iterdir()))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True, timeout=200).stdout.splitlines()
    found = {name: (peak, needed) for name, peak, needed in map(json.loads, lines)}
    assert len(found) == 12
    slack = 12e6  # what any first image takes
    assert {name for name, (peak, needed) in found.items() if peak > needed + slack} == set()
    assert found["wide.png"][0] < 8 * side**2 + slack
