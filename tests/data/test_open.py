"""What a person types, and what they are told when it cannot be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glocal.data import ArraySource, FileListSource, FolderSource, PartsWorld, describe, has_split, open_source
from glocal.errors import UsageError

ARRAY = np.zeros((3, 8, 8, 3), np.uint8)


def test_every_kind_of_spec(photos, tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text("\n".join(str(p) for p in sorted(photos.rglob("*.png"))))
    assert isinstance(open_source(photos), FolderSource)
    assert isinstance(open_source(str(photos)), FolderSource)
    assert isinstance(open_source(listed), FileListSource)
    assert isinstance(open_source(ARRAY), ArraySource)
    assert isinstance(open_source("parts:n=5,size=32"), PartsWorld)
    world = PartsWorld(4, 32)
    assert open_source(world) is world
    assert open_source([world]) is world
    joined = open_source([photos, listed, ARRAY, "parts:n=5,size=32", world])
    assert len(joined) == 15 + len(open_source(listed)) + 3 + 5 + 4


def test_photos_fixture(photos):
    train, test = open_source(photos), open_source(photos, split="test")
    assert (len(train), len(test)) == (15, 9)
    assert train.classes == test.classes == ["ant", "bee", "cat"]
    assert {key.rsplit(".")[-1] for key in train.files} == {"jpg", "png", "webp"}
    assert {train.open(i).decode().shape for i in range(15)} == {(64, 64, 3), (96, 128, 3)}


def test_parts_options():
    world = open_source("parts:n=30,size=48,classes=5,difficulty=0.2,nuisance=1,seed=3", split="test")
    assert (len(world), world.size, world.split, world.seed) == (30, 48, "test", 3)
    assert (world.difficulty, world.nuisance, len(world.classes)) == (0.2, 1.0, 5)
    assert world.has_masks
    assert world.labels.shape == (30,)


def test_has_split(photos, tmp_path):
    assert has_split(photos, "train")
    assert has_split(photos, "test")
    assert not has_split(photos, "val")
    assert not has_split(photos / "train", "train")
    assert has_split("parts", "val")
    assert not has_split(ARRAY, "train")
    assert has_split([photos, "parts"], "test")
    assert not has_split([photos, ARRAY], "test")
    assert has_split("torchvision:CIFAR10", "test")
    assert not has_split("torchvision:CIFAR10", "val")


def test_describe(photos, tmp_path):
    assert describe(open_source(photos)) == "15 images, 3 classes (ant, bee, cat)"
    assert describe(open_source("parts:n=3000")) == (
        "3,000 images, 8 classes (A, B, C, …), masks of 7 classes (background, body, head, …)"
    )
    assert describe(open_source(ARRAY[:1])) == "1 image"
    Image.new("L", (2, 2)).save(tmp_path / "stray.png")
    for c in "ab":
        (tmp_path / c).mkdir()
        for k in range(9):
            Image.new("L", (2, 2)).save(tmp_path / c / f"{k}.png")
    assert "stray.png" in describe(open_source(tmp_path))


def told(spec, split=None) -> str:
    with pytest.raises(UsageError) as error:
        open_source(spec, split=split)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_missing_path_suggests_a_sibling(photos):
    assert "did you mean train?" in told(photos / "tran")
    assert "did you mean test?" in told(photos / "tets" / "ant")
    assert "no data at" in told(photos / "xxxxxxxx")


def test_empty_and_useless_folders(tmp_path):
    assert "is empty" in told(tmp_path)
    for name in ("a.heic", "b.HEIC", "c.mp4", "README"):
        (tmp_path / name).write_bytes(b"x")
    text = told(tmp_path)
    assert ".heic ×2" in text
    assert ".mp4 ×1" in text


def test_nothing_usable(tmp_path):
    for k in range(70):
        (tmp_path / f"{k:02d}.jpg").write_bytes(b"<html>")
    assert "nothing usable" in told(tmp_path)
    assert "00.jpg: not an image" in told(tmp_path)
    Image.new("L", (2, 2)).save(tmp_path / "69.jpg")
    assert len(open_source(tmp_path)) == 70


def test_absent_splits(photos, tmp_path):
    assert "it has test, train" in told(photos, "val")
    assert "has no split 'test'" in told(photos / "test", "test")
    assert "no split" in told(ARRAY, "train")
    assert "unknown split" in told(photos, "training")
    (tmp_path / "l.txt").write_text(str(next(photos.rglob("*.png"))))
    assert "l.txt has no split 'val'" in told(tmp_path / "l.txt", "val")


def test_what_is_not_data(photos, tmp_path):
    assert "is a single image" in told(next(photos.rglob("*.png")))
    (tmp_path / "photos.zip").write_bytes(b"PK")
    assert "neither a folder nor a list" in told(tmp_path / "photos.zip")
    assert "cannot read images from a dict" in told({})
    assert "no data" in told([])


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("parts:sze=3", "did you mean size?"),
        ("parts:colour=3", "there are n, size"),
        ("parts:size", "size= is not a number"),
        ("parts:size=big", "size=big is not a number"),
        ("parts:size=4", "size is 4, expected 16 to 1024"),
        ("parts:difficulty=2", "expected 0 to 1"),
        ("parts:classes=1", "expected 2 to 12"),
        ("torchvision:CIFAR", "did you mean CIFAR10"),
        ("torchvision:xyz", "there are CIFAR10"),
    ],
)
def test_malformed_specs(spec, message):
    assert message in told(spec)


def test_a_list_passes_the_split_on(photos):
    assert len(open_source([photos, photos], split="test")) == 18
    assert "has no split" in told([photos, ARRAY], "test")
