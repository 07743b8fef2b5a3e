"""Masks of numbers and of colours: the same classes in all splits, or one reason why there are none."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glocal.data import FolderSource, Unreadable, describe, masks
from glocal.data.masks import read_mask
from glocal.errors import UsageError

CLASSES = np.array([[0, 1, 2, 2], [1, 1, 0, 2]], np.uint8)
COLORS = np.array([[0, 0, 128], [0, 255, 0], [200, 10, 10]], np.uint8)  # in the order of their codes


def write(root, split, stem, mask, kind="masks"):
    """A photograph and its mask."""
    mask = mask if isinstance(mask, Image.Image) else Image.fromarray(mask)
    for name, image in (("images", Image.new("RGB", mask.size)), (kind, mask)):
        (root / split / name).mkdir(parents=True, exist_ok=True)
        image.save(root / split / name / f"{stem}.png")


def test_numbers(tmp_path):
    classes = np.array([[0, 1, 2], [3, 250, 255]], np.uint8)
    palette = Image.fromarray(classes).convert("P")
    palette.putpalette(list(range(256)) * 3)
    grey = Image.fromarray(classes)
    opaque = Image.new("L", grey.size, 255)
    same = [grey, palette, Image.fromarray(classes.astype(np.uint16))]
    same += [Image.merge("RGB", [grey] * 3), Image.merge("RGBA", [grey, grey, grey, opaque]), grey.convert("LA")]
    for k, image in enumerate(same):
        image.save(tmp_path / f"{k}.png")
        mask = read_mask(tmp_path / f"{k}.png")
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, classes)


def test_bits(tmp_path):
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png").tolist() == [[0, 1]]


@pytest.mark.parametrize(
    "image",
    [Image.fromarray(COLORS[CLASSES]), Image.fromarray(np.array([[0, 300]], np.uint16)), Image.new("F", (2, 2))],
)
def test_what_is_no_mask_of_numbers(tmp_path, image):
    image.save(tmp_path / "m.tif")
    with pytest.raises(Unreadable, match="mask"):
        read_mask(tmp_path / "m.tif")


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_are_classes_and_the_same_in_all_splits(tmp_path, mode):
    for split, kept in (("train", [0, 1, 2]), ("test", [2, 1])):
        for k in kept:
            write(tmp_path, split, f"{k}", Image.fromarray(COLORS[np.minimum(CLASSES, k)]).convert(mode))
    train, test = FolderSource(tmp_path, "train"), FolderSource(tmp_path, "test")
    assert train.mask_classes == test.mask_classes == ["#000080", "#00ff00", "#c80a0a"]
    assert [train.mask(k).tolist() for k in (0, 1, 2)] == [np.minimum(CLASSES, k).tolist() for k in (0, 1, 2)]
    (tmp_path / "test/masks/2.png").unlink()
    (tmp_path / "test/images/2.png").unlink()
    assert FolderSource(tmp_path, "test").mask(0).tolist() == np.minimum(CLASSES, 1).tolist()
    assert "masks of 3 classes (#000080, #00ff00, #c80a0a)" in describe(train)


def test_all_that_is_transparent_is_one_class(tmp_path):
    pixels = np.zeros((1, 4, 4), np.uint8)
    pixels[0, :, 3] = [0, 0, 255, 128]
    pixels[0, :, 0] = [9, 200, 9, 9]
    write(tmp_path, "", "1", pixels)
    source = FolderSource(tmp_path)
    assert source.mask_classes == ["#00000000", "#09000080", "#090000"]
    assert source.mask(0).tolist() == [[0, 0, 2, 1]]


def test_black_and_white_are_two_classes(tmp_path):
    pixels = np.array([[0, 255, 255]], np.uint8)
    write(tmp_path, "", "1", pixels)
    write(tmp_path, "", "2", pixels[:, ::-1])
    assert FolderSource(tmp_path).mask(1).tolist() == [[1, 1, 0]]
    assert FolderSource(tmp_path).mask_classes == ["#000000", "#ffffff"]
    (tmp_path / "classes.json").write_text('["ground", "polyp"]')
    assert FolderSource(tmp_path).mask_classes == ["ground", "polyp"]
    write(tmp_path, "", "3", np.array([[0, 3, 255]], np.uint8))  # numbers, after all
    (tmp_path / "classes.json").unlink()
    assert FolderSource(tmp_path).mask(0).tolist() == pixels.tolist()
    assert FolderSource(tmp_path).mask_classes is None


def test_255_that_is_ignored_is_no_class(tmp_path):
    write(tmp_path, "", "1", np.array([[0, 255]], np.uint8))
    (tmp_path / "classes.json").write_text('{"ignore_index": 255}')
    assert FolderSource(tmp_path).mask(0).tolist() == [[0, 255]]


def test_colours_can_be_given_and_others_do_not_count(tmp_path):
    write(tmp_path, "", "1", COLORS[CLASSES])
    legend = {"names": ["road", "sky"], "palette": [[200, 10, 10], [0, 255, 0, 255]], "ignore_index": 1}
    (tmp_path / "classes.json").write_text(json.dumps(legend))
    source = FolderSource(tmp_path)
    assert (source.mask_classes, source.ignore_index) == (["road", "sky"], 1)
    assert source.mask(0).tolist() == [[255, 1, 0, 0], [1, 1, 255, 0]]


@pytest.mark.parametrize(
    "palette",
    [[[1, 2]], [[1, 2, 300]], ["red"], [[1, 2, 3], [1, 2, 3]], [[k, 0, 0] for k in range(256)], [[0, 0, 0]], 3],
)
def test_broken_palettes(tmp_path, palette):
    write(tmp_path, "", "1", COLORS[CLASSES])
    (tmp_path / "classes.json").write_text(json.dumps({"names": ["a", "b"], "palette": palette}))
    with pytest.raises(UsageError, match=r"classes\.json: expected") as error:
        FolderSource(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("legend", ['{"ignore_index": 1e999}', "[" * 100_000])
def test_legends_that_no_reader_survives(tmp_path, legend):
    write(tmp_path, "", "1", COLORS[CLASSES])
    (tmp_path / "classes.json").write_text(legend)
    with pytest.raises(UsageError, match=r"classes\.json: expected"):
        FolderSource(tmp_path)


def test_photographs_are_no_masks_and_only_the_masks_are_left_out(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    write(tmp_path, "", "1", COLORS[CLASSES])
    write(tmp_path, "", "2", noise)
    source = FolderSource(tmp_path)
    assert (len(source), source.has_masks, source.mask_classes) == (2, False, None)
    assert source.note == (
        "masks not used: more than 255 colours; give those of the classes as the palette of classes.json"
    )


def test_a_broken_mask_costs_no_more_than_itself(tmp_path):
    write(tmp_path, "", "1", COLORS[CLASSES])
    write(tmp_path, "", "2", COLORS[CLASSES])
    (tmp_path / "masks/2.png").write_bytes(b"no")
    source = FolderSource(tmp_path)
    assert source.mask(0).tolist() == CLASSES.tolist()
    with pytest.raises(Unreadable):
        source.mask(1)


@pytest.mark.parametrize("layout", ["", "train", "images/train"])
def test_images_and_labels_of_equal_names_are_masks(tmp_path, layout):
    root = tmp_path / "root"
    for stem in "12":
        write(root, "" if layout == "images/train" else layout, stem, COLORS[CLASSES], kind="labels")
    if layout == "images/train":
        for kind in ("images", "labels"):
            (root / kind).rename(root / "train")
            (root / kind).mkdir()
            (root / "train").rename(root / kind / "train")
    source = FolderSource(root)
    assert (len(source), source.has_masks, source.classes) == (2, True, None)
    assert source.mask(1).tolist() == CLASSES.tolist()
    assert len(FolderSource(tmp_path)) == 2  # nor are they photographs deeper down


def test_images_and_labels_of_other_names_are_classes(tmp_path):
    write(tmp_path, "", "1", COLORS[CLASSES], kind="labels")
    (tmp_path / "labels/1.png").rename(tmp_path / "labels/7.png")
    source = FolderSource(tmp_path)
    assert (source.classes, source.has_masks) == (["images", "labels"], False)


def test_labels_in_text_files_are_not_masks(tmp_path):
    write(tmp_path, "", "1", COLORS[CLASSES], kind="labels")
    (tmp_path / "labels/1.png").rename(tmp_path / "labels/1.txt")
    source = FolderSource(tmp_path)
    assert (len(source), source.has_masks) == (1, False)


def test_masks_are_looked_at_once_however_often_they_are_opened(tmp_path, monkeypatch):
    write(tmp_path, "", "1", COLORS[CLASSES])
    looked = []
    original = masks._colors_in
    monkeypatch.setattr(masks, "_colors_in", lambda path: looked.append(path) or original(path))
    for _ in range(3):
        FolderSource(tmp_path)
    assert len(looked) == 1
    write(tmp_path, "", "1", COLORS[CLASSES[:, ::-1]])
    FolderSource(tmp_path)
    assert len(looked) == 2
