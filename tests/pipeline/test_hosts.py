"""Several hosts, with folders, files and caches of their own or in common: here, processes of this machine."""

from __future__ import annotations

import os
import shutil
import time
from collections import Counter
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from PIL import Image

from glocal import random
from glocal.backbones.weights import read_checkpoint
from glocal.data import inventory, open_source
from glocal.data.source import fingerprint
from glocal.distributed import each_says, on_each, on_first
from glocal.errors import UsageError
from glocal.evaluation.evaluate import open_splits
from glocal.pipeline.share import open_together
from glocal.run import Run
from processes import Command, on_processes, run

OPTIONS = {
    "method": "vicreg",
    "backbone": "test_resnet",
    "image_size": 32,
    "batch_size": 4,
    "precision": "32",
    "threads": 1,
    "workers": 0,
    "compile": False,
    "small_maps": [9, 9],
    "accelerator": "cpu",
    "projector": (16, 16),
}

# a command of the current folder: a run with a fault
MINE = f'''
import os, signal, time
from datetime import timedelta
from functools import partial
from pathlib import Path

import glocal
from glocal.pipeline import conclude, launch, share, start
from glocal.training import loop

OPTIONS = {OPTIONS!r}


def whole(out: str = "whole") -> None:
    glocal.pretrain("photos", out=out, max_steps=6, cache=True, report=False, **OPTIONS)


def stopped() -> None:
    """Told to go in its third step."""
    usual = loop.set_rates

    def set_rates(optimizer, optimization, step, **more):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        usual(optimizer, optimization, step, **more)

    loop.set_rates = set_rates
    whole("run")


def slow() -> None:
    """What the first process does alone takes longer, once each, than training's collectives may."""
    usual, folders = os.scandir, []
    os.scandir = lambda path=".": (folders.append(str(path)), usual(path))[1]
    launch.DDPStrategy = partial(launch.DDPStrategy, timeout=timedelta(seconds=2))

    def late(where, name):
        usual = getattr(where, name)

        def work(*given, **named):
            setattr(where, name, usual)
            time.sleep(2.5)
            return usual(*given, **named)

        setattr(where, name, work)

    if os.environ["RANK"] == "0":
        late(share, "listed")
        late(loop, "save_checkpoint")
        late(conclude, "write_report")
    glocal.pretrain("photos", out="run", max_steps=1, **OPTIONS)
    Path("folders.txt").write_text("\\n".join(folders))
'''


def put(folder: Path, *splits: str) -> Path:
    """16 photographs of two classes in each split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for k in range(16):
            file = folder / split / "ab"[k % 2] / f"{k:02d}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def hosts(tmp_path) -> list[Path]:
    """The current folders of two hosts, each with its copy of the photographs."""
    for name in ("one", "other"):
        put(tmp_path / name / "photos", "train", "test")
        (tmp_path / name / "mine.py").write_text(MINE)
    return [tmp_path / "one", tmp_path / "other"]


def own(hosts: list[Path]) -> dict:
    env = [{"HOME": str(host / "home"), "GLOCAL_CACHE": str(host / "cache")} for host in hosts]
    return {"cwd": hosts, "env": env, "ranks": 2}


def final(path: Path) -> dict[str, torch.Tensor]:
    return read_checkpoint(Run(path))["method"]


class Spy:
    """Counts what is asked of the file system below a folder."""

    def __init__(self, folder: Path) -> None:
        self.asked = {name: Counter() for name in ("scandir", "stat")}
        for name, asked in self.asked.items():
            setattr(os, name, self.counting(getattr(os, name), asked, str(folder)))

    @staticmethod
    def counting(ask, asked, folder):
        def counted(path=".", *more, **named):
            if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
                asked[os.path.relpath(path, folder)] += 1
            return ask(path, *more, **named)

        return counted


def looked(folder: Path) -> tuple[dict, list[str], int]:
    spy = Spy(folder)
    data, source = open_together(str(folder))
    fingerprint(source), inventory(source)
    splits = open_splits(data)
    for _ in range(3):
        open_splits(data)
    return spy.asked, [source.key(i) for i in range(len(source))], len(splits.test)


def test_one_process_looks_through_a_folder_once_for_all_and_for_all_splits(tmp_path):
    put(tmp_path / "photos", "train", "test")
    (first, keys, tests), (second, *same) = on_processes(2, looked, tmp_path / "photos")
    assert same == [keys, tests] == [[f"train/{c}/{k:02d}.png" for c in "ab" for k in range(c == "b", 16, 2)], 16]
    folders = ["train/a", "train/b", "test/a", "test/b"]
    assert [first["scandir"][name] for name in folders] == [1, 1, 1, 1]
    assert max(first["stat"][key] for key in keys) == 1
    assert not second["scandir"]
    assert set(second["stat"]) <= {".", "train"}  # where it is


def on_hosts(folders: list[Path], data: str) -> tuple[str, int] | str:
    os.chdir(folders[dist.get_rank()])
    try:
        source = open_together(data)[1]
    except UsageError as refusal:
        return str(refusal)
    return fingerprint(source)[0], int(source.open(3).decode().sum())


def test_hosts_with_copies_look_each_for_itself(hosts):
    (one, pixels), (other, same) = on_processes(2, on_hosts, hosts, "photos")
    assert pixels == same
    assert [one, other] == [str(host / "photos" / "train") for host in hosts]


def test_what_one_host_lacks_all_refuse_and_say_where(hosts):
    (hosts[1] / "photos/train/b/03.png").unlink()
    first, second = on_processes(2, on_hosts, hosts, "photos")
    assert first == second
    assert "different data at photos, rank 1 not the data that rank 0 sees" in first
    shutil.rmtree(hosts[1] / "photos")
    first, second = on_processes(2, on_hosts, hosts, "photos")
    assert first == second
    assert first.startswith("rank 1 on ")
    assert "no data at photos" in first


def in_turn(folder: Path) -> list[str]:
    dist.distributed_c10d._set_pg_timeout(timedelta(seconds=1), dist.group.WORLD)
    rank = dist.get_rank()
    said = [on_first(lambda: time.sleep(2) or f"of {rank}")]

    def work():
        if rank == 0:
            time.sleep(2)
            (folder / "made").touch()
        return str((folder / "made").exists())

    said.append(on_each(work, first=rank == 0))
    said += each_says(str(rank))

    def refuse():
        raise UsageError(f"no {rank}")

    for ask in (lambda: on_first(refuse), lambda: on_each(refuse if rank == 1 else lambda: None)):
        with pytest.raises(UsageError) as refused:
            ask()
        said.append(str(refused.value).partition(" on ")[0])
    return said


def test_processes_wait_for_one_beyond_the_time_out_of_collectives(tmp_path):
    assert on_processes(2, in_turn, tmp_path) == [["of 0", "True", "0", "1", "no 0", "rank 1"]] * 2


@pytest.mark.slow
def test_hosts_that_share_nothing_train_and_resume_as_two_processes_of_one(hosts, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)  # where it is not set, Lightning chooses threads of its own
    stopped = run("mine:stopped", check=False, **own(hosts))
    assert "saved; resume with: glocal pretrain --resume run" in stopped.stderr, stopped.stderr
    assert [len(list((host / "cache").glob("*/layout.npy"))) for host in hosts] == [1, 1]
    assert not (hosts[1] / "run").exists()
    assert not Run(hosts[0] / "run").has_encoder
    run("pretrain", "--resume=run", **own(hosts))
    assert Run(hosts[0] / "run").has_encoder
    assert not (hosts[1] / "run").exists()
    run("mine:whole", cwd=hosts[0], env={"GLOCAL_CACHE": str(tmp_path)}, ranks=2)
    pairs = final(hosts[0] / "run"), final(hosts[0] / "whole")
    assert all(torch.equal(pairs[0][name], pairs[1][name]) for name in pairs[1])


@pytest.mark.slow
def test_a_slow_first_process_is_waited_for_and_unreadable_images_of_all_are_listed(hosts):
    order = random.permutation(16, 0, "order", 0)
    broken = open_source(hosts[0] / "photos").key(int(order[4]))  # the first of rank 1; of rank 0 are the first four
    for host in hosts:
        (host / "photos" / broken).write_bytes(b"no image")
    command = Command("mine:slow", **own(hosts))
    _, error = command.communicate()
    assert command.returncode == 0, error
    assert [process.exitcode for process in command.processes] == [0, 0], (command.folder / "err1").read_text()
    assert [line.partition("\t")[0] for line in Run(hosts[0] / "run").skipped()] == [broken]
    assert Run(hosts[0] / "run").report_file.exists()
    for host in hosts:  # scores, their baselines and pictures of the report included
        looked_into = Counter((host / "folders.txt").read_text().split("\n"))
        assert [looked_into[f"photos/{split}/{c}"] for split in ("train", "test") for c in "ab"] == [1] * 4
