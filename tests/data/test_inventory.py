"""`changes` says what is another in a collection, without opening an image."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glocal.data import ArraySource, ConcatSource, FileListSource, FolderSource, PartsWorld, changes, inventory


@pytest.fixture
def photos(tmp_path):
    for name in ("cat/1.png", "cat/2.png", "dog/1.png", "dog/2.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (4, 3)).save(tmp_path / name)
    return tmp_path


def test_lines_are_label_size_and_key_in_order(photos, monkeypatch):
    monkeypatch.setattr(FolderSource, "open", None)  # nothing is opened
    size = (photos / "cat/1.png").stat().st_size
    assert inventory(FolderSource(photos)).split("\n") == [
        '["cat", "dog"]',
        f"0\t{size}\tcat/1.png",
        f"0\t{size}\tcat/2.png",
        f"1\t{size}\tdog/1.png",
        f"1\t{size}\tdog/2.png",
        "",
    ]


def test_touched_copied_and_reread_collections_are_the_same(photos, tmp_path):
    before = inventory(FolderSource(photos))
    for file in photos.rglob("*.png"):
        file.write_bytes(file.read_bytes())
    assert changes(before, inventory(FolderSource(photos))) == ""


def renamed(folder):
    (folder / "cat/1.png").rename(folder / "cat/9.png")


def grown(folder):
    Image.new("RGB", (40, 30), "red").save(folder / "dog/2.png")


def shifted(folder):
    (folder / "ant").mkdir()
    (folder / "cat/1.png").rename(folder / "ant/0.png")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (renamed, "1 gone: cat/1.png; 1 new: cat/9.png"),
        (grown, "1 of another size: dog/2.png"),
        (
            shifted,
            "1 gone: cat/1.png; 1 new: ant/0.png; 3 of another label: cat/2.png from 0 to 1, dog/1.png from 1 to 2, "
            'dog/2.png from 1 to 2; classes ["cat", "dog"], now ["ant", "cat", "dog"]',
        ),
    ],
)
def test_what_changed_is_named(photos, change, said):
    before = inventory(FolderSource(photos))
    change(photos)
    assert changes(before, inventory(FolderSource(photos))) == said


def test_many_changes_are_counted():
    few, many = (inventory(ArraySource(np.zeros((n, 2, 2), np.uint8))) for n in (10, 1010))
    assert changes(few, many) == "1,000 new: 10, 11, 12, …"
    assert changes(many, few) == "1,000 gone: 10, 11, 12, …"


def test_another_order_and_repeated_samples(photos):
    lists = []
    for k, rows in enumerate(("cat/1.png\ncat/2.png\n", "cat/2.png\ncat/1.png\n", "cat/1.png\ncat/2.png\ncat/2.png\n")):
        (photos / f"{k}.txt").write_text(rows)
        lists.append(inventory(FileListSource(photos / f"{k}.txt")))
    assert changes(lists[0], lists[1]) == changes(lists[0], lists[2]) == "another order"


def test_collections_that_are_no_files_and_several_together(photos):
    world = PartsWorld(3, 32, classes=2)
    assert inventory(world).split("\n")[1:3] == ["0\t-\ttrain/00000", "1\t-\ttrain/00001"]
    size = (photos / "cat/1.png").stat().st_size
    folder = FolderSource(photos)
    assert f"-\t{size}\t{folder.name}/cat/1.png" in inventory(ConcatSource([folder, FileListSource(listed(photos))]))
    assert f"-\t-\t{folder.name}/cat/1.png" in inventory(ConcatSource([folder, world]))


def listed(photos):
    (photos / "list.txt").write_text("cat/1.png\n")
    return photos / "list.txt"
