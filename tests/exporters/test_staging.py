"""Nothing half-written carries the final name, and nothing of the user's is overwritten."""

import json

import numpy as np
import pytest

from glocal.errors import UsageError
from glocal.exporters.staging import staged_file, staged_folder


def names(folder):
    return sorted(entry.name for entry in folder.iterdir())


def fill(folder, text="{}"):
    (folder / "config.json").write_text(text)


def test_folder_appears_whole(tmp_path):
    out = tmp_path / "deep" / "out"
    with staged_folder(out) as folder:
        fill(folder)
        assert not out.exists()
    assert names(out) == ["config.json"]
    assert names(out.parent) == ["out"]


def test_failure_leaves_the_earlier_export(tmp_path):
    out = tmp_path / "out"
    with staged_folder(out) as folder:
        fill(folder, json.dumps({"glocal": 1}))
    with pytest.raises(ZeroDivisionError), staged_folder(out) as folder:
        (folder / "config.json").write_text(str(1 / 0))
    assert json.loads((out / "config.json").read_text()) == {"glocal": 1}
    assert names(tmp_path) == ["out"]


def test_an_earlier_export_is_replaced_whole(tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    fill(out, json.dumps({"glocal": 1}))
    (out / "README.md").write_text("old")
    with staged_folder(out) as folder:
        fill(folder)
    assert names(out) == ["config.json"]
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize(
    "files",
    [
        {"thesis.tex": ""},
        {"config.json": '{"architecture": "resnet18"}'},
        {"config.json": "not json"},
        {"encoder.safetensors": "", "encoder.json": "", "config.yaml": ""},  # a run
    ],
)
def test_other_folders_are_refused(tmp_path, files):
    out = tmp_path / "out"
    out.mkdir()
    for name, text in files.items():
        (out / name).write_text(text)
    with pytest.raises(UsageError, match="holds other files"), staged_folder(out):
        pass
    assert names(out) == sorted(files)


def test_empty_folder_and_file(tmp_path):
    (tmp_path / "out").mkdir()
    with staged_folder(tmp_path / "out") as folder:
        fill(folder)
    with pytest.raises(UsageError, match="is a file"), staged_folder(tmp_path / "out" / "config.json"):
        pass


def test_a_file_and_its_weights_arrive_together(tmp_path):
    out = tmp_path / "encoder.onnx"
    with staged_file(out, ".onnx") as path:
        path.write_bytes(b"\x08\x0a\x12\x06glocal")
        (path.parent / "encoder.onnx.data").write_text("weights")
    assert names(tmp_path) == ["encoder.onnx", "encoder.onnx.data"]
    with staged_file(out, ".onnx") as path:  # recognised as an earlier export
        path.write_text("new")
    assert out.read_text() == "new"
    with pytest.raises(UsageError, match="not exported by glocal"), staged_file(out, ".onnx"):
        pass


def test_wrong_names(tmp_path):
    with (
        pytest.raises(UsageError, match=r"does not end in \.onnx; .*encoder\.onnx"),
        staged_file(tmp_path / "encoder", ".onnx"),
    ):
        pass
    (tmp_path / "a.pt2").mkdir()
    with pytest.raises(UsageError, match="give another name"), staged_file(tmp_path / "a.pt2", ".pt2"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write to"), staged_folder(tmp_path / "file" / "out"):
        pass


def test_a_damaged_archive_is_somebody_elses(tmp_path):
    out = tmp_path / "out.npz"
    np.savez(out, glocal=np.zeros(1))
    out.write_bytes(out.read_bytes().replace(b"PK\1\2", b"PK\1\3"))
    with pytest.raises(UsageError, match="was not exported by glocal"), staged_file(out, ".npz"):
        pass
