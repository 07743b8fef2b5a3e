"""What is no regular file neither blocks nor fills the memory, is left out and named; each folder comes once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from glocal.data import FileListSource, FolderSource, Unreadable, describe, files, inventory, open_source
from glocal.data.files import read_bytes
from glocal.errors import UsageError

pytestmark = pytest.mark.timeout(60)  # instead of a hang


def put(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (4, 3)).save(root / name, "png")
    return root


def keys(source) -> list[str]:
    return [source.key(i) for i in range(len(source))]


@pytest.fixture
def odd(tmp_path) -> Path:
    """One photograph, and names of photographs that are a pipe, a device, a link to nothing, links to each other."""
    root = put(tmp_path / "odd", "a.png")
    os.mkfifo(root / "pipe.jpg")
    (root / "zero.jpg").symlink_to("/dev/zero")
    (root / "lost.jpg").symlink_to("nowhere.jpg")
    (root / "x.jpg").symlink_to("y.jpg")
    (root / "y.jpg").symlink_to("x.jpg")
    return root


def test_only_regular_files_are_images_and_the_others_are_named(odd):
    source = open_source(odd)
    assert keys(source) == ["a.png"]
    assert source.note.startswith("skipped lost.jpg (not a regular file), pipe.jpg (not a regular file), x.jpg (")
    assert source.note.endswith("and 2 more")


def test_a_pipe_or_a_device_that_took_the_place_of_a_file_is_unreadable(odd):
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(Unreadable, match="not a regular file"):
            read_bytes(odd / name)
    with pytest.raises(Unreadable, match="directory"):
        read_bytes(odd)


def test_nothing_but_pipes_is_a_mistake_in_one_line(odd):
    (odd / "a.png").unlink()
    with pytest.raises(UsageError, match=r"no image that can be read; skipped lost\.jpg \(not a regular file\)"):
        FolderSource(odd)
    (odd / "list.txt").write_text("pipe.jpg\n")
    with pytest.raises(UsageError, match="1 of 1 files are missing"):
        FileListSource(odd / "list.txt")


def test_files_beyond_all_bounds_are_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 1000)
    (tmp_path / "a.jpg").write_bytes(bytes(1001))
    with pytest.raises(Unreadable, match="too many to read"):
        read_bytes(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_bytes(bytes(1000))
    assert len(read_bytes(tmp_path / "a.jpg")) == 1000


def test_folders_that_link_to_each_other_are_looked_at_once(tmp_path):
    names, tree = [f"{k}" for k in range(8)], tmp_path / "tree"
    put(tree, *(f"{name}/{name}.png" for name in names))
    for name in names:
        for other in names:
            (tree / name / f"to{other}").symlink_to(tree / other)
    (tree / "0" / "up").symlink_to(tmp_path)
    assert keys(FolderSource(tree)) == [f"{name}/{name}.png" for name in names]


def test_a_folder_has_its_own_name_rather_than_that_of_a_link(tmp_path):
    put(tmp_path, "z/1.png", "elsewhere/2.png")
    (tmp_path / "z" / "a").symlink_to(tmp_path / "z")
    (tmp_path / "a").symlink_to(tmp_path / "z")
    (tmp_path / "elsewhere").rename(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    (tmp_path / "b").symlink_to(tmp_path.parent / f"{tmp_path.name}-elsewhere")
    assert keys(FolderSource(tmp_path)) == ["b/2.png", "z/1.png"]


def closed(folder: Path, monkeypatch) -> None:
    """Make a folder unreadable, for the superuser as well."""

    def guarded(original):
        def refuse(path="."):
            if Path(path) == folder:
                raise PermissionError(13, "Permission denied")
            return original(path)

        return refuse

    for name in ("scandir", "listdir"):
        monkeypatch.setattr(os, name, guarded(getattr(os, name)))


@pytest.mark.parametrize("inside", ["shut", "open/shut", "train/shut"])
def test_what_may_not_be_looked_into_is_left_out_and_named(tmp_path, monkeypatch, inside):
    put(tmp_path, "open/1.png", f"{inside}/2.png", "train/3.png", "test/4.png")
    closed(tmp_path / inside, monkeypatch)
    source = FolderSource(tmp_path, "train")
    assert keys(source) == ["train/3.png"]
    assert (f"skipped {inside} (Permission denied)" in source.note) == inside.startswith("train")
    whole = put(tmp_path / "more", "1.png", "shut/2.png")
    closed(whole / "shut", monkeypatch)
    assert keys(FolderSource(whole)) == ["1.png"]
    assert "skipped shut (Permission denied)" in describe(FolderSource(whole))


def test_a_closed_root_is_a_mistake_in_one_line(tmp_path, monkeypatch):
    put(tmp_path, "1.png")
    closed(tmp_path, monkeypatch)
    with pytest.raises(UsageError, match="Permission denied"):
        FolderSource(tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.uname().sysname == "Darwin", reason="names are text there")
def test_names_of_any_bytes_are_shown_as_text(tmp_path):
    for folder in (b"caf\xe9", b"th\xe9"):
        place = os.path.join(os.fsencode(tmp_path), b"r\xe9el", folder)
        os.makedirs(place)
        for name in (b"\xff.png", b"new\nline\x1b.png", "é.png".encode()):
            Image.new("L", (4, 3)).save(tmp_path / "a.png")
            os.rename(tmp_path / "a.png", os.path.join(place, name))
    root = Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), b"r\xe9el")))
    source = FolderSource(root)
    assert source.name == r"r\xe9el"
    assert source.classes == [r"caf\xe9", r"th\xe9"]
    assert sorted(keys(source))[:3] == [r"caf\xe9/\xff.png", r"caf\xe9/new\x0aline\x1b.png", r"caf\xe9/é.png"]
    assert all(source.open(i).size == (4, 3) for i in range(6))
    listed = tmp_path / "list.csv"
    listed.write_bytes(b"image_path,label\nr\xe9el/caf\xe9/\xff.png,\xe9t\xe9\n")
    rows = FileListSource(listed)
    assert (keys(rows), rows.classes) == ([r"r\xe9el/caf\xe9/\xff.png"], [r"\xe9t\xe9"])
    assert rows.open(0).size == (4, 3)
    both = open_source([root, rows])
    for text in (describe(source), describe(rows), inventory(both), *keys(both)):
        text.encode()
    listed.write_bytes(b"gone\xff.png\n")
    with pytest.raises(UsageError, match=r"gone\\xff\.png") as error:
        FileListSource(listed)
    str(error.value).encode()


def test_names_are_shown_in_locales_that_cannot_write_them():
    say = "from glocal.data.files import shown; print(ascii([shown('\\u65e5\\udcff\\n.jpg'), shown('plain.jpg')]))"
    settings = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    done = subprocess.run([sys.executable, "-c", say], capture_output=True, text=True, env=os.environ | settings)
    assert done.stdout == "['\\u65e5\\\\xff\\\\x0a.jpg', 'plain.jpg']\n", done.stderr
