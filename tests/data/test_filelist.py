from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from glocal.data import FileListSource
from glocal.errors import UsageError


@pytest.fixture
def folder(tmp_path):
    for k, name in enumerate(("a.png", "b c.png", "sub/d, e.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (2, 2), k).save(tmp_path / name)
    return tmp_path


def write(folder, name, text):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_txt(folder):
    path = write(folder, "list.txt", f"# two of three\nsub/d, e.png\n\n{folder / 'a.png'}\n")
    source = FileListSource(path)
    assert [source.key(i) for i in range(len(source))] == ["sub/d, e.png", str(folder / "a.png")]
    assert source.open(0).decode()[0, 0].tolist() == [2, 2, 2]
    assert (source.name, source.labels) == ("list", None)


@pytest.mark.parametrize("header", ["", "path,label\n", "File , anything\n", "\ufeffpath,label\n"])
def test_csv_with_labels(folder, header):
    source = FileListSource(write(folder, "list.csv", header + 'b c.png,dog\n"sub/d, e.png",cat\na.png,dog\n'))
    assert source.classes == ["cat", "dog"]
    assert source.labels.tolist() == [1, 0, 1]
    assert source.key(1) == "sub/d, e.png"


def test_csv_numbers_are_ordered_by_value(folder):
    source = FileListSource(write(folder, "list.csv", "a.png,10\nb c.png,2\n"))
    assert source.classes == ["2", "10"]
    assert source.labels.tolist() == [1, 0]


def test_csv_without_labels(folder):
    assert FileListSource(write(folder, "list.csv", "path\na.png\n")).labels is None


def test_missing_files_are_counted_and_the_first_named(folder):
    path = write(folder, "list.txt", "a.png\n\ngone.png\nalso.png\n")
    with pytest.raises(UsageError, match=r"2 of 3 files are missing, the first in line 3: gone\.png"):
        FileListSource(path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.txt", "\n# nothing\n", "names no images"),
        ("list.csv", "path,label\n", "names no images"),
        ("list.csv", "a.png,cat\nb c.png,\n", "line 2 has no label"),
    ],
)
def test_mistakes(folder, name, text, message):
    with pytest.raises(UsageError, match=message):
        FileListSource(write(folder, name, text))


@pytest.mark.parametrize("name", ["list.txt", "list.csv"])
def test_what_is_no_list_is_refused_in_one_short_line(folder, name):
    with pytest.raises(UsageError, match="1 of 1 files are missing") as error:
        FileListSource(write(folder, name, "x" * 5000 + "\n"))
    assert len(str(error.value)) < 1000


def test_not_text(folder):
    (folder / "list.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UsageError, match="not a text file"):
        FileListSource(folder / "list.txt")


def test_the_fingerprint_changes_with_a_file_and_not_with_time(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "list.txt").write_text("a.png\n")
    place, state = FileListSource(tmp_path / "list.txt").fingerprint()
    assert (place, state) == FileListSource(tmp_path / "list.txt").fingerprint()
    (tmp_path / "list.txt").write_text("b.png\n")
    other = FileListSource(tmp_path / "list.txt").fingerprint()
    Image.new("RGB", (9, 9), "red").save(tmp_path / "b.png")
    changed = FileListSource(tmp_path / "list.txt").fingerprint()
    assert place == other[0] == changed[0]
    assert len({state, other[1], changed[1]}) == 3


def test_further_columns_are_captions_and_groups(folder):
    header = "image_path,patient,Label,caption,,Country"
    text = f'{header}\nb c.png,7,dog,A dog,x,\na.png,10,cat,,,fr\n"sub/d, e.png",7,dog,,,fr\n'
    source = FileListSource(write(folder, "list.csv", text))
    assert (source.classes, source.labels.tolist()) == (["cat", "dog"], [1, 0, 1])
    assert source.captions == ["A dog", None, None]
    assert list(source.groups) == ["patient", "Country"]
    assert (source.groups["patient"].names, source.groups["patient"].of.tolist()) == (["7", "10"], [0, 1, 0])
    assert (source.groups["Country"].names, source.groups["Country"].of.tolist()) == (["fr"], [-1, 0, 0])
    assert source.groups["Country"].of.dtype == np.int64


def test_a_caption_over_two_lines(folder):
    source = FileListSource(write(folder, "list.csv", 'path,caption\na.png,"one\ntwo, three"\nb c.png\n'))
    assert source.captions == ["one\ntwo, three", None]
    assert (source.labels, source.groups) == (None, None)


def test_without_a_header_there_are_labels_only(folder):
    source = FileListSource(write(folder, "list.csv", "a.png,cat,7\nb c.png,dog,8\n"))
    assert (source.classes, source.groups, source.captions) == (["cat", "dog"], None, None)


def test_an_empty_label_column_leaves_groups(folder):
    source = FileListSource(write(folder, "list.csv", "path,label,video\na.png,,1\nb c.png,,2\n"))
    assert source.labels is None
    assert source.groups["video"].of.tolist() == [0, 1]
