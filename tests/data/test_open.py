"""What a person types, and what they are told when it cannot be."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from PIL import Image

from glocal.data import (
    ArraySource,
    FileListSource,
    FolderSource,
    PartsWorld,
    RawImage,
    Unreadable,
    code_of,
    describe,
    describe_spec,
    has_split,
    open_source,
)
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


def test_photographs_of_other_formats_are_left_out_and_counted(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg")
    for name in ("b.heic", "c.NEF", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    source = open_source(tmp_path)
    assert source.files == ["a.jpg"]
    assert "skipped b.heic (of a format that is not read), c.NEF (of a format that is not read)" in source.note


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
    assert "this ZipFile: `ZipFile` lacks `__len__`" in told(ZipFile(tmp_path / "empty.zip", "w"))
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
        ("torchvision", "source 'torchvision' is not opened by its name alone: give torchvision:ARGUMENT"),
        ("prts:n=3", "no data at prts:n=3"),
        ("prts:n", "did you mean parts?"),
    ],
)
def test_malformed_specs(spec, message):
    assert message in told(spec)


def test_a_list_passes_the_split_on(photos):
    assert len(open_source([photos, photos], split="test")) == 18
    assert "has no split" in told([photos, ARRAY], "test")


MINE = """
import numpy as np
from glocal.data import RawImage


class Cells:
    def __init__(self, number=3):
        self.number = int(number)

    def __len__(self):
        return self.number

    def key(self, i):
        return f"cell {i}"

    def open(self, i):
        return RawImage(np.full((8, 8, 3), i, np.uint8))


class Slides(Cells):
    splits = ("train", "test")

    def __init__(self, number=3, split=None):
        super().__init__(number)
        self.split = split


class Days(Slides):
    @staticmethod
    def splits(argument):
        return ["train", "val"] if argument == "7" else []


def half(number):
    return Cells(int(number) // 2)


CELLS = Cells(5)
"""


def test_an_unregistered_source_goes_by_its_place(module_here):
    module_here(MINE)
    assert {spec: len(open_source(spec)) for spec in ("mine:Cells", "mine:Cells:4", "mine:half:9", "mine:CELLS")} == {
        "mine:Cells": 3,
        "mine:Cells:4": 4,
        "mine:half:9": 4,
        "mine:CELLS": 5,
    }
    assert len(open_source(["mine:Cells:4", "parts:n=2,size=32"])) == 6
    assert "source 'mine:half' is not opened by its name alone: give mine:half:ARGUMENT" in told("mine:half")
    assert "source 'mine:CELLS' takes no argument" in told("mine:CELLS:4")
    assert "has no 'Cels' (did you mean Cells?)" in told("mine:Cels")


def test_a_source_says_its_splits(module_here):
    module_here(MINE)
    assert not has_split("mine:Cells", "train")
    assert "mine:Cells has no split 'train'" in told("mine:Cells", "train")
    assert has_split("mine:Slides", "test")
    assert not has_split("mine:Slides", "val")
    assert (open_source("mine:Slides", split="test").split, open_source("mine:Slides").split) == ("test", None)
    assert has_split("mine:Days:7", "val")
    assert not has_split("mine:Days", "val")
    assert open_source("mine:Days:7", split="val").split == "val"
    assert "mine:Days has no split 'val'" in told("mine:Days", "val")


class Minimal:
    """A collection with nothing but what it must have."""

    def __init__(self, **more):
        vars(self).update(more)

    def __len__(self):
        return 3

    def key(self, i):
        return str(i)

    def open(self, i):
        return RawImage(np.zeros((8, 8, 3), np.uint8))


def test_what_a_collection_leaves_out_is_taken_for_granted():
    source = Minimal()
    assert open_source(source) is source
    assert (source.name, source.note, source.has_masks) == ("Minimal", "", False)
    assert [source.classes, source.labels, source.mask_classes, source.ignore_index] == [None] * 4
    assert describe(source) == "3 images"
    said = Minimal(name="mine", labels=np.array([0, -1, 1]), classes=["a", "b"])
    assert open_source([said, Minimal()]).name == "mine + Minimal"
    assert said.classes == ["a", "b"]


class Broken(Minimal):
    def open(self, i):
        raise Unreadable("truncated")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Minimal(labels=[0, 1, 1], classes=["a", "b"]), "has `labels` that are no array of 3 integers"),
        (Minimal(labels=np.array([0, 1]), classes=["a", "b"]), "has `labels` that are no array of 3 integers"),
        (Minimal(labels=np.array([0, 1, 1.5]), classes=["a", "b"]), "has `labels` that are no array of 3 integers"),
        (Minimal(labels=np.array([0, 1, 2]), classes=["a", "b"]), "has `labels` for which `classes` has no names"),
        (Minimal(labels=np.array([0, 1, 2])), "has `labels` for which `classes` has no names"),
        (Minimal(has_masks=True), "lacks `mask`, with `has_masks`"),
        (Minimal(open=lambda i: np.zeros((8, 8, 3), np.uint8)), "opens a ndarray, without `size` and `decode`"),
        (Minimal(open=lambda i: Image.new("RGB", (8, 8))), "opens a Image, without `size` and `decode`"),
    ],
)
def test_a_breach_is_told_to_the_author(source, says):
    assert told(source).startswith(f"this Minimal: `Minimal` {says}")
    assert "see docs/architecture.md" in told(source)


def test_a_first_image_that_cannot_be_read_is_no_breach():
    assert len(open_source(Broken())) == 3


def test_a_path_with_a_colon_stays_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("parts", "torchvision:CIFAR10", "data:2024"):
        Path(name).mkdir()
        Image.new("L", (2, 2)).save(Path(name) / "a.png")
    assert isinstance(open_source("parts"), PartsWorld)
    for spec in ("./parts", Path("parts"), "torchvision:CIFAR10", "data:2024"):
        assert len(open_source(spec)) == 1
    assert code_of(["data:2024", "parts:n=3", "torchvision:CIFAR10", ARRAY]) == []
    for missing in ("C:/photos", r"C:\photos", "data:2025/photos", "/home/me:x"):
        assert f"no data at {missing}" in told(missing)
        assert code_of(missing) == []


def test_what_config_yaml_can_say():
    for text in ("photos", "mine:Cells:4", "parts:n=4", ["photos", "parts"]):
        assert describe_spec(text) == text
    assert describe_spec(Path("photos")) == "photos"
    assert describe_spec(("photos", Path("more"))) == ["photos", "more"]
    for spec in (ARRAY, Minimal(), ["photos", ARRAY]):
        assert describe_spec(spec) is None


def test_which_code_a_spec_would_run():
    assert code_of("mine:Cells:4") == ["mine:Cells"]
    assert code_of(["photos", "mine:Cells", "parts:n=3"]) == ["mine:Cells"]
    assert code_of(ARRAY) == []
