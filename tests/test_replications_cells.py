"""A cell is run once, gone on with after an interruption, and run again when its protocol changes."""

from __future__ import annotations

import fcntl
import json
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

import glocal
from replications import cells, claims, continuation, queue, recipes
from replications.cells import BUSY, Cell, run_cell, stored, untrained, write_json
from replications.plan import Arm, Claim
from replications.worlds import WORLDS, Score, World

WORLD_DATA = ("parts:n=24,size=32",)
TINY = World(
    "tiny",
    WORLD_DATA,
    {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "max_steps": 2, "checkpoint_steps": 1},
    {"knn": Score("knn", "top1", WORLD_DATA), "rank": Score("rank", "rank_pooled", WORLD_DATA)},
    ("knn",),
    limit=16,
)
VICREG, RANDOM = Arm("vicreg", {"method": "vicreg"}, ("rank",)), Arm("random")


@pytest.fixture
def lab(tmp_path, monkeypatch):
    """Results aside, and a world of a few images."""
    monkeypatch.setattr(cells, "RESULTS", tmp_path / "results")
    monkeypatch.setitem(WORLDS, "tiny", TINY)
    return tmp_path


def test_a_cell_is_trained_scored_and_kept(lab, monkeypatch):
    cell = Cell(TINY, VICREG, 3)
    assert stored(cell) is None
    assert run_cell(cell, lab, lab / "runs") == 0
    result = stored(cell)
    assert result["scores"].keys() == {"knn", "rank"}
    assert 0 <= result["scores"]["knn"] <= 1 < result["scores"]["rank"]
    assert result["last"]["step"] == 2
    assert result["resolved"]["method"] == "vicreg"
    assert not {"data", "out", "seed", "workers"} & result["resolved"].keys()
    assert not (lab / "runs" / str(cell) / "run").exists()
    before = cell.result_path.read_bytes()
    monkeypatch.setattr(glocal, "pretrain", None)
    assert run_cell(cell, lab, lab / "runs") == 0  # not run again
    assert cell.result_path.read_bytes() == before


def test_a_teacher_has_scores_of_its_own(lab):
    cell = Cell(TINY, Arm("byol", {"method": "byol", "lr": 1.0}, ("rank",), teacher=("rank",)), 0)
    assert run_cell(cell, lab, lab / "runs") == 0
    scores = stored(cell)["scores"]
    assert scores.keys() == {"knn", "rank", "teacher rank"}
    assert scores["rank"] != scores["teacher rank"]


def asked(data, folder, seed, options):
    """What the next test's cell runs."""
    assert folder.is_dir()
    return {"score": seed + len(options["arm"])}


def test_a_cell_with_a_run_of_its_own_is_run_and_kept(lab, monkeypatch):
    monkeypatch.setitem(recipes.PROBES, f"{__name__}:asked", 1)
    cell = Cell(World("told", (), {}, {}, ()), Arm("all", {"arm": "all"}, run=f"{__name__}:asked"), 4)
    assert cell.takes_time
    assert run_cell(cell, lab, lab / "runs") == 0
    assert stored(cell)["scores"] == {"score": 7}
    monkeypatch.setitem(recipes.PROBES, f"{__name__}:asked", 2)
    assert stored(cell) is None


def test_a_change_of_recipe_or_probe_makes_it_stale(lab, monkeypatch):
    cell = Cell(TINY, VICREG, 0)
    write_json(cell.result_path, {"protocol": cell.protocol, "scores": {}})
    assert stored(cell) is not None
    for versions, name in ((recipes.RECIPES, "vicreg"), (recipes.PROBES, "rank"), (recipes.NETWORKS, "test_resnet")):
        with monkeypatch.context() as changed:
            changed.setitem(versions, name, 99)
            assert stored(cell) is None
    assert stored(Cell(TINY, RANDOM, 0)) is None
    assert stored(Cell(TINY, Arm("vicreg", {"method": "vicreg", "lr": 0.1}, ("rank",)), 0)) is None


def test_it_goes_on_where_it_was_interrupted(lab, monkeypatch):
    """In the middle of training; with the numbers of a run that nothing interrupted."""
    cell, pretrain, asked = Cell(TINY, VICREG, 0), glocal.pretrain, []
    run_cell(cell, lab, lab / "whole")
    whole = stored(cell)
    cell.result_path.unlink()

    def stopped(*data, **options):
        asked.append(options)
        if "resume" not in options:
            options |= {"max_steps": 1}
            pretrain(*data, **options)
            config = Path(options["out"], "config.yaml")
            config.write_text(config.read_text().replace("max_steps: 1", "max_steps: 2"))
            raise KeyboardInterrupt
        return pretrain(*data, **options)

    monkeypatch.setattr(glocal, "pretrain", stopped)
    with pytest.raises(KeyboardInterrupt):
        run_cell(cell, lab, lab / "runs")
    assert stored(cell) is None
    assert run_cell(cell, lab, lab / "runs") == 0
    assert [("resume" in options) for options in asked] == [False, True]
    result = stored(cell)
    assert result["last"]["step"] == 2
    assert result["train_cpu_seconds"] is None  # of a part only
    assert whole["train_cpu_seconds"] > 0
    assert result["scores"].keys() == whole["scores"].keys()


def test_what_was_begun_under_another_protocol_is_begun_anew(lab, monkeypatch):
    cell, pretrain, asked = Cell(TINY, VICREG, 0), glocal.pretrain, []
    folder = lab / "runs" / str(cell)
    pretrain(list(WORLD_DATA), out=str(folder / "run"), method="simclr", **cells.RUN | {**TINY.options, "max_steps": 1})
    write_json(folder / "asked.json", cell.protocol | {"recipe": 0})
    monkeypatch.setattr(
        glocal, "pretrain", lambda *data, **options: asked.append(options) or pretrain(*data, **options)
    )
    assert run_cell(cell, lab, lab / "runs") == 0
    assert "resume" not in asked[0]
    assert stored(cell)["resolved"]["method"] == "vicreg"


def test_two_processes_do_not_run_one_cell(lab):
    cell = Cell(TINY, RANDOM, 0)
    folder = lab / "runs" / str(cell)
    folder.mkdir(parents=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert run_cell(cell, lab, lab / "runs") == BUSY
    assert run_cell(cell, lab, lab / "runs") == 0
    assert "resolved" not in stored(cell)  # an untrained encoder


def test_a_run_begins_with_the_untrained_encoder(tmp_path):
    options = {**cells.RUN, **TINY.options, "method": "vicreg", "max_steps": 1, "lr": 0.0, "weight_decay": 0.0}
    glocal.pretrain(WORLD_DATA[0], out=str(tmp_path / "run"), seed=3, **options)
    ours, theirs = untrained(TINY.options, 3), glocal.load(str(tmp_path / "run"))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


FIRST = Claim("first", "tiny", (RANDOM, VICREG), (0, 1), 1.0)
SECOND = Claim("second", "tiny", (VICREG, Arm("simclr", {"method": "simclr"})), (0,), 2.0)


def test_cells_come_in_order_of_value_seed_after_seed_each_once(lab):
    names = [str(cell) for cell in queue.pending([FIRST, SECOND])]
    assert names == ["tiny/random-0", "tiny/vicreg-0", "tiny/random-1", "tiny/vicreg-1", "tiny/simclr-0"]
    done = Cell(TINY, VICREG, 0)
    write_json(done.result_path, {"protocol": done.protocol, "scores": {}, "cpu_seconds": 90})
    stale = Cell(TINY, VICREG, 1)
    write_json(stale.result_path, {"protocol": {}, "scores": {}})
    assert "tiny/vicreg-0" not in [str(cell) for cell in queue.pending([FIRST, SECOND])]
    rows = [line.split() for line in queue.status([FIRST, SECOND], lab / "runs").splitlines()]
    assert rows[1] == ["first", "4", "1", "1", "0.0"]  # one run of a minute and a half is left
    assert rows[2] == ["second", "2", "1", "0", "0.0"]
    assert all(len(line) <= 80 for line in queue.status(claims.CLAIMS, lab / "runs").splitlines())
    assert len(queue.status(claims.CLAIMS, lab / "runs").splitlines()) <= 24


def started(monkeypatch, code: str) -> list[str]:
    """Let every cell be a process that runs this code; the names of those that were begun."""
    names: list[str] = []

    def start(cell, data, runs):
        names.append(str(cell))
        return subprocess.Popen([sys.executable, "-c", code.replace("SEED", str(cell.seed))])

    monkeypatch.setattr(queue, "start", start)
    return names


def test_a_cell_that_fails_is_told_and_does_not_stop_the_others(lab, monkeypatch, capsys):
    names = started(monkeypatch, "raise SystemExit(SEED)")
    assert queue.work([FIRST], lab, lab / "runs", processes=2, hours=None) == 1
    assert names == ["tiny/random-0", "tiny/vicreg-0", "tiny/random-1", "tiny/vicreg-1"]  # each tried once
    said = capsys.readouterr().out
    assert "tiny/random-0: done" in said
    assert "tiny/vicreg-1 failed: see " in said
    assert "tiny/random-0 failed" not in said


def test_after_its_hours_it_stops_what_is_under_way(lab, monkeypatch):
    names = started(monkeypatch, "import time; time.sleep(600)")
    assert queue.work([FIRST], lab, lab / "runs", processes=1, hours=1 / 3600) == 0
    assert names == ["tiny/random-0"]


def test_there_is_one_queue_for_a_folder_of_runs(lab, monkeypatch, capsys):
    started(monkeypatch, "import time; time.sleep(5)")
    first = threading.Thread(
        target=queue.work, args=([FIRST], lab, lab / "runs"), kwargs={"processes": 1, "hours": 2 / 3600}
    )
    monkeypatch.setattr(queue.signal, "signal", lambda *_: None)  # which only the main thread may set
    first.start()
    while not (lab / "runs" / "queue.pid").exists() or not (lab / "runs" / "queue.pid").read_text():
        pass
    assert queue.work([FIRST], lab, lab / "runs", processes=1, hours=None) == 2
    assert "a queue is at work: PID" in queue.status([FIRST], lab / "runs")
    first.join()
    assert "at work on" in capsys.readouterr().out
    assert "no queue is at work" in queue.status([FIRST], lab / "runs")


def test_the_command_finds_the_cells_of_the_plan():
    first = next(queue.cells_of(claims.CLAIMS[0]))
    assert queue.find_cell(str(first)) == first
    with pytest.raises(SystemExit, match="no cell nowhere/vicreg-0"):
        queue.find_cell("nowhere/vicreg-0")


def test_results_are_of_the_plan():
    """None is left of an arm that no claim names any more."""
    planned = {str(cell) for claim in (*queue.PILOTS, *claims.CLAIMS) for cell in queue.cells_of(claim)}
    planned |= {f"continuation/{cell}" for cell in continuation.cells()}
    kept = {p.relative_to(cells.RESULTS).with_suffix("").as_posix() for p in cells.RESULTS.rglob("*.json")}
    assert kept <= planned
    assert json.loads(next((cells.RESULTS / "parts").glob("*.json")).read_text())["scores"]
