"""Runs that are told to go, or whose workers die: saved at the step under way, and nothing left behind."""

from __future__ import annotations

import itertools
import os
import signal
import sys
import time
from pathlib import Path

import pytest
import torch

import glocal
from glocal.backbones.weights import read_checkpoint
from glocal.errors import UsageError
from glocal.run import Run
from glocal.training.stopping import TrainingStopped
from glocal.views.loader import ViewLoader
from processes import Command

DATA = "parts:n=28,size=40"
OPTIONS = {
    "method": "vicreg",
    "backbone": "test_resnet",
    "image_size": 32,
    "batch_size": 4,
    "epochs": 100_000,
    "precision": "32",
    "threads": 1,
    "report": False,
    "compile": False,
    "monitor_every": 1_000_000,
    "projector": (16, 16),
}


def start(out: Path, *more: str, ranks: int = 1) -> Command:
    """A run without an end, in a process group of its own, some steps on its way."""
    options = [f"--{k.replace('_', '-')}={list(v) if isinstance(v, tuple) else v}" for k, v in OPTIONS.items()]
    process = Command("pretrain", DATA, f"--out={out}", "--quiet", *options, *more, ranks=ranks)
    deadline = time.monotonic() + 240
    while not any(line["step"] >= 10 for line in Run(out).metrics()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def step_of(out: Path) -> int:
    return read_checkpoint(Run(out))["position"]["step"]


def members(group: int) -> dict[int, int]:
    """The processes of a group that have not ended, and each one's parent."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found[int(stat.parent.name)] = int(fields[1])
    return found


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_a_signal_to_the_whole_group_saves_the_step_under_way(tmp_path, name):
    process = start(tmp_path / "run", "--workers=2")
    os.killpg(process.pid, getattr(signal, name))
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + getattr(signal, name), err
    assert "saved; resume with: glocal pretrain --resume" in err
    assert "Traceback" not in err
    last = max(line["step"] for line in Run(tmp_path / "run").metrics())
    assert step_of(tmp_path / "run") >= last >= 10
    assert not members(process.pid)


def test_two_processes_agree_on_the_step_though_only_one_is_told(tmp_path):
    process = start(tmp_path / "run", "--accelerator=cpu", "--workers=0", ranks=2)
    process.send_signal(signal.SIGTERM)  # to the first only
    _, err = process.communicate(timeout=120)
    assert process.returncode == 128 + signal.SIGTERM, err
    assert step_of(tmp_path / "run") >= 10


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG")
def test_workers_end_with_their_parent_though_it_was_killed(tmp_path):
    process = start(tmp_path / "run", "--workers=2")
    process.send_signal(signal.SIGKILL)
    process.communicate()
    deadline = time.monotonic() + 10
    while members(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not members(process.pid)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_worker_that_dies_costs_no_step(tmp_path, ranks):
    process = start(tmp_path / "run", "--workers=2", "--accelerator=cpu", ranks=ranks)
    parents = members(process.processes[-1].pid)
    workers = parents.keys() - parents.values()
    assert len(workers) == 2
    os.kill(max(workers), signal.SIGKILL)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert "a loader worker died" in err
    assert "Traceback" not in err
    assert step_of(tmp_path / "run") >= max(line["step"] for line in Run(tmp_path / "run").metrics())


@pytest.mark.parametrize("error", [EOFError(), ConnectionResetError("reset by peer")])
def test_nor_does_one_that_dies_while_it_hands_a_batch_over(tmp_path, monkeypatch, error):
    whole = ViewLoader.epoch

    def broken(self, *arguments):
        yield from itertools.islice(whole(self, *arguments), 3)
        raise error

    monkeypatch.setattr(ViewLoader, "epoch", broken)
    with pytest.raises(TrainingStopped, match=r"a loader worker died .* at step 3 of .* --resume"):
        glocal.pretrain(DATA, out=str(tmp_path / "run"), workers=0, quiet=True, **OPTIONS)
    assert step_of(tmp_path / "run") == 3


def test_a_flipped_bit_is_seen_and_the_checkpoint_before_serves(tmp_path, capsys):
    run = Run(glocal.pretrain(DATA, out=str(tmp_path / "run"), **(OPTIONS | {"epochs": 1, "quiet": True})))
    whole = run.checkpoint_file.read_bytes()
    before = torch.load(run.previous_checkpoint, weights_only=True)["position"]["step"]
    # amid the largest tensors: what lies between records changes nothing
    for place in range(len(whole) // 4, len(whole) // 2, len(whole) // 40):
        run.checkpoint_file.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        state = read_checkpoint(run)
        if state["position"]["step"] == before:
            assert "the last checkpoint cannot be read" in capsys.readouterr().err
        else:
            assert all(torch.equal(a, b) for a, b in zip(*map(values, (state, load(whole, tmp_path))), strict=True))
    assert run.previous_checkpoint.exists()
    run.previous_checkpoint.unlink()
    run.checkpoint_file.write_bytes(whole[:-100])
    with pytest.raises(UsageError, match="no whole checkpoint"):
        read_checkpoint(run)


def load(content: bytes, folder: Path) -> dict:
    (folder / "whole.pt").write_bytes(content)
    return torch.load(folder / "whole.pt", weights_only=True)


def values(state: dict) -> list[torch.Tensor]:
    return list(state["method"].values())
