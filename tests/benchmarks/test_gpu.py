"""`make gpu` runs to its end here, small, names what it cannot show, and no step that fails stops another."""

from __future__ import annotations

import importlib.metadata
import json
import sys

import pytest
import torch

from benchmarks.gpu import __main__ as gpu, methods, stand_in, traces
from benchmarks.gpu.notes import Notes, read, within
from benchmarks.photos import photos
from processes import SERVER


@pytest.fixture
def notes(tmp_path):
    photos(tmp_path / "photos", count=16, size=(64, 48))
    return Notes(tmp_path / "notes.jsonl", "cpu", tmp_path)


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="make gpu itself says more")
@pytest.mark.parametrize("name", gpu.STEPS)
def test_every_step_runs_small(name, notes, monkeypatch):
    monkeypatch.setattr(methods, "method_names", lambda reads: ["deepcluster", "paws"])
    monkeypatch.setattr(traces, "CASES", dict([*traces.CASES.items()][2:]))
    if name == "runs":  # it forks, before torch has threads
        process = SERVER.Process(target=gpu.step, args=(name, notes))
        process.start()
        process.join()
    else:
        gpu.step(name, notes)
    found = read(notes.file)
    assert [check for check in found if check["outcome"] == "failed"] == []
    assert any("GPU" in check["why"] or "CUDA" in check["why"] for check in found)
    assert {"collectives": 13, "devices": 9, "methods": 5, "runs": 2, "traces": 1, "rates": 11}[name] == len(found)


def python(folder, monkeypatch, does):
    """An interpreter that is there at once: it leaves what it was asked in "asked", and does this."""
    script = folder / "python"
    script.write_text(f'#!/bin/sh\necho "$@" > {folder / "asked"}\n{does}\n')
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))


def test_a_step_is_asked_of_an_interpreter_of_its_own(notes, tmp_path, monkeypatch):
    python(tmp_path, monkeypatch, "exit 0")
    assert gpu.in_process("rates", notes, 60) == ""
    module, name, *words = (tmp_path / "asked").read_text().split()
    assert (module, name) == ("-m", "benchmarks.gpu")
    asked = []
    monkeypatch.setattr(sys, "argv", ["gpu", *words])
    monkeypatch.setattr(gpu, "step", lambda name, given: asked.append((name, vars(given))))
    assert gpu.main() == 0
    assert asked == [("rates", vars(notes))]


def test_a_step_that_fails_or_hangs_stops_no_other(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(gpu, "STEPS", {"broken": 60, "hanging": 5, "kind": 9})

    def run(name, notes, seconds):
        if name == "kind":
            with notes.check("after all that"):
                return ""
        if name == "hanging":
            python(tmp_path, monkeypatch, "sleep 99")
        return gpu.in_process(name, notes, min(seconds, gpu.STEPS[name]))

    found = gpu.measure([*gpu.STEPS], tmp_path, run)
    ends = {name: step["ended"] for name, step in found["steps"].items()}
    assert ends == {"broken": "exit code 1", "hanging": "stopped after 5 s", "kind": ""}
    assert [check["outcome"] for check in found["steps"]["kind"]["checks"]] == ["passed"]


def test_what_fails_is_said_first_and_in_the_exit_code(tmp_path):
    notes = Notes(tmp_path / "notes.jsonl", "cpu", tmp_path)
    with notes.check("a distance") as found:
        within(found, 0.1, distance=float("nan"))
    with notes.check("only there", needs_cuda=True) as found:
        found["rate"] = {"views": 1234.5}
    machine = {"gpu": None, "cpu": "AMD", "cores": 2, "threads": 1, "load": 0, "python": "3", "versions": {}}
    found = {"machine": machine, "seconds": 3, "steps": {"devices": {"ended": "", "seconds": 2}}}
    found["steps"]["devices"]["checks"] = read(notes.file)
    assert gpu.conclude(found, tmp_path) == 1
    page = (tmp_path / "amd" / "gpu.md").read_text()
    assert page.index("| devices | a distance | AssertionError: distance is nan") < page.index("## devices, 2 s")
    assert "| only there | – | rate: views 1,234 | without a GPU" in page
    kept = json.loads((tmp_path / "amd" / "gpu.json").read_text())
    del kept["steps"]["devices"]["checks"][0]
    assert gpu.conclude(kept, tmp_path) == 0
    kept["steps"]["devices"]["ended"] = "stopped after 9 s"
    assert gpu.conclude(kept, tmp_path) == 1


def test_plug_ins_are_found_and_files_decoded_where_nothing_is_installed(monkeypatch):
    def absent(name):
        raise stand_in.PackageNotFoundError(name)

    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(stand_in, "version", absent)
    monkeypatch.setattr(stand_in, "find_spec", lambda name: None)
    monkeypatch.setitem(sys.modules, "simplejpeg", sys.modules.get("simplejpeg"))
    assert len(stand_in.stand_in()) == 2
    described = importlib.metadata.distribution("glocal")
    assert described.version == "0.1.0.dev0"
    assert any(str(described.locate_file("")) == folder for folder in sys.path[:1])
    found = described.entry_points.select(group="glocal.methods", name="vicregl")
    assert [point.value for point in found] == ["glocal.methods.vicregl:VICRegL"]
    with pytest.raises(ValueError):
        sys.modules["simplejpeg"].decode_jpeg(b"", "RGB")
