"""Which files, labels, splits and masks a folder means."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from glocal.data import FolderSource, Unreadable
from glocal.data.folder import folder_splits
from glocal.errors import UsageError


def put(root, *paths, size=(4, 3), value=None):
    """Write an image to each path; its grey value is `value`, or its number in the list."""
    for k, path in enumerate(paths):
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", size, k if value is None else value).save(file)
    return root


def keys(source):
    return [source.key(i) for i in range(len(source))]


def test_order_is_that_of_the_paths_and_hidden_files_stay_out(tmp_path):
    put(tmp_path, "b.png", "a.PNG", "c/x.jpeg", ".hidden.png", ".cache/y.png", "__MACOSX/z.png")
    (tmp_path / "notes.txt").write_text("")
    source = FolderSource(tmp_path)
    assert keys(source) == ["a.PNG", "b.png", "c/x.jpeg"]
    assert source.open(0).size == (4, 3)
    assert source.open(1).decode()[0, 0].tolist() == [0, 0, 0]
    assert (source.labels, source.classes, source.has_masks) == (None, None, False)


def test_class_folders_give_labels(tmp_path):
    source = FolderSource(put(tmp_path, "dog/1.png", "cat/1.png", "cat/2.png", "emu/1.png"))
    assert source.classes == ["cat", "dog", "emu"]
    assert source.labels.tolist() == [0, 0, 1, 2]
    assert source.labels.dtype == np.int64


@pytest.mark.parametrize(
    "paths",
    [
        ["2021/01/a.png", "2021/02/b.png", "2022/01/c.png"],  # a dump by date
        ["cat/a.png", "dog/more/b.png"],
        ["only/a.png", "only/b.png"],
        ["a.png", "b.png"],
        ["cat/a.png", "dog/b.png", "c.png"],
    ],
)
def test_anything_else_has_no_labels_and_is_no_error(tmp_path, paths):
    source = FolderSource(put(tmp_path, *paths))
    assert len(source) == len(paths)
    assert source.labels is None
    assert source.classes is None


def test_a_few_stray_images_are_mentioned(tmp_path):
    source = FolderSource(put(tmp_path, *(f"{c}/{k}.png" for c in "ab" for k in range(10)), "overview.png"))
    assert source.labels is None
    assert "overview.png" in source.note


@pytest.mark.parametrize(
    "names", [("train", "val", "test"), ("Train", "valid", "TEST"), ("train", "validation", "test")]
)
def test_splits(tmp_path, names):
    for k, split in enumerate(names):
        put(tmp_path, *(f"{split}/{c}/{j}.png" for c in ("cat", "dog") for j in range(k + 1)), value=k)
    assert folder_splits(tmp_path) == {"train", "val", "test"}
    for k, split in enumerate(("train", "val", "test")):
        source = FolderSource(tmp_path, split)
        assert len(source) == 2 * (k + 1)
        assert all(key.startswith(names[k] + "/") for key in keys(source))
        assert source.open(0).decode()[0, 0, 0] == k
    assert keys(FolderSource(tmp_path)) == keys(FolderSource(tmp_path, "train"))


def test_classes_are_those_of_all_splits(tmp_path):
    """A class without test images does not shift the labels of the others."""
    put(tmp_path, "train/ant/1.png", "train/bee/1.png", "train/cat/1.png", "test/cat/1.png", "test/dog/1.png")
    assert (
        FolderSource(tmp_path, "train").classes
        == FolderSource(tmp_path, "test").classes
        == ["ant", "bee", "cat", "dog"]
    )
    assert FolderSource(tmp_path, "train").labels.tolist() == [0, 1, 2]
    assert FolderSource(tmp_path, "test").labels.tolist() == [2, 3]


def test_a_class_called_train_is_not_a_split(tmp_path):
    source = FolderSource(put(tmp_path, "train/1.png", "car/1.png", "bus/1.png"))
    assert source.classes == ["bus", "car", "train"]
    assert folder_splits(tmp_path) == set()


def test_train_and_test_are_splits_whatever_lies_beside(tmp_path):
    put(tmp_path, "train/1.png", "test/1.png", "unlabeled/1.png")
    assert keys(FolderSource(tmp_path)) == ["train/1.png"]


def test_splits_without_train_are_everything(tmp_path):
    put(tmp_path, "val/1.png", "test/1.png")
    assert keys(FolderSource(tmp_path)) == ["test/1.png", "val/1.png"]
    assert folder_splits(tmp_path) == {"val", "test"}


@pytest.mark.parametrize(
    ("images", "masks"),
    [
        ("images", "masks"),
        ("train/images", "train/masks"),
        ("images/train", "masks/train"),
    ],
)
def test_images_and_masks_are_paired_by_name(tmp_path, images, masks):
    put(tmp_path, f"{images}/x/1.jpg", f"{images}/y/1.jpg", f"{images}/y/2.jpg", value=99)
    put(tmp_path, f"{masks}/x/1.png", f"{masks}/y/1.png", f"{masks}/y/2.png", f"{masks}/y/3.png")
    source = FolderSource(tmp_path)
    assert source.has_masks
    assert keys(source) == [f"{images}/x/1.jpg", f"{images}/y/1.jpg", f"{images}/y/2.jpg"]
    assert [int(source.mask(i).max()) for i in range(3)] == [0, 1, 2]
    assert source.mask(0).shape == (3, 4)
    assert source.mask(0).dtype == np.uint8
    assert source.classes == ["x", "y"]
    assert source.labels.tolist() == [0, 1, 1]


def test_masks_that_miss_images_are_not_used_but_mentioned(tmp_path):
    put(tmp_path, "images/1.png", "images/2.png", "masks/2.png")
    source = FolderSource(tmp_path)
    assert len(source) == 2
    assert not source.has_masks
    assert "images/1.png" in source.note
    with pytest.raises(UsageError, match="no masks"):
        source.mask(0)


def test_mask_of_another_size_is_unreadable(tmp_path):
    put(tmp_path, "images/1.png")
    put(tmp_path, "masks/1.png", size=(3, 3))
    with pytest.raises(Unreadable, match="3×3, its image 4×3"):
        FolderSource(tmp_path).mask(0)


def test_masks_deeper_down_are_not_photographs(tmp_path):
    put(tmp_path, "one/images/1.png", "one/masks/1.png", "two/images/1.png", "two/masks/1.png")
    assert keys(FolderSource(tmp_path)) == ["one/images/1.png", "two/images/1.png"]


@pytest.mark.parametrize("where", ["classes.json", "train/classes.json", "train/masks/classes.json"])
@pytest.mark.parametrize(
    ("legend", "expected"),
    [
        (["sky", "road"], (["sky", "road"], None)),
        ({"names": ["sky", "road"], "ignore_index": 1}, (["sky", "road"], 1)),
        ({"mask_names": ["sky"], "names": ["other"]}, (["sky"], None)),
        ({"ignore_index": 255}, (None, 255)),
    ],
)
def test_names_of_the_mask_classes(tmp_path, where, legend, expected):
    put(tmp_path, "train/images/1.png", "train/masks/1.png")
    (tmp_path / where).write_text(json.dumps(legend))
    source = FolderSource(tmp_path, "train")
    assert (source.mask_classes, source.ignore_index) == expected


def test_broken_legend(tmp_path):
    put(tmp_path, "images/1.png", "masks/1.png")
    (tmp_path / "classes.json").write_text("{")
    with pytest.raises(UsageError, match=r"classes\.json: expected"):
        FolderSource(tmp_path)


def test_links_are_followed_but_not_in_circles(tmp_path):
    put(tmp_path, "real/cat/1.png")
    root = tmp_path / "root"
    root.mkdir()
    (root / "linked").symlink_to(tmp_path / "real" / "cat")
    (root / "linked" / "loop").symlink_to(root)
    assert keys(FolderSource(root)) == ["linked/1.png"]


def test_clothing(clothing):
    sizes = {split: len(FolderSource(clothing, split)) for split in (None, "train", "val", "test")}
    assert sizes == {None: 3068, "train": 3068, "val": 341, "test": 372}
    source = FolderSource(clothing, "test")
    assert len(source.classes) == 10
    assert source.classes[source.labels[7]] == source.key(7).split("/")[1]
    assert min(source.open(0).decode().shape[:2]) == 96


def test_pets(pets):
    source = FolderSource(pets, "test")
    assert (len(source), source.classes) == (298, ["abyssinian", "american_bulldog", "bengal"])
    assert (source.mask_classes, source.ignore_index) == (["pet", "background", "border"], 2)
    assert source.mask(3).shape[::-1] == source.open(3).size


def test_camvid(camvid):
    source = FolderSource(camvid)
    assert len(source) == 367
    assert source.labels is None
    assert len(source.mask_classes) == 12
    assert source.ignore_index == 11
    assert source.mask(0).max() <= 11


def test_captions_beside_the_images(tmp_path):
    put(tmp_path, "train/a/1.png", "train/b/2.png", "test/a/3.png")
    table = tmp_path / "captions.csv"
    table.write_text('image,caption\na/1.png,"one, a\ncat"\n3.png,three\n')
    assert FolderSource(tmp_path).captions == ["one, a\ncat", None]
    assert FolderSource(tmp_path, "test").captions == ["three"]
    table.write_text("image,caption\n4.png,four\n5.png,five\n")
    with pytest.raises(UsageError, match=r"captions.csv names 2 images that are not there, the first being 4.png"):
        FolderSource(tmp_path)
    table.write_text("image,camera\n3.png,four\n")
    with pytest.raises(UsageError, match="lacks the column caption"):
        FolderSource(tmp_path)
