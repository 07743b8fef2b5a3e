"""Several hosts, with files, caches and current folders of their own or in common; here, processes of this machine."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.backbones.weights import read_checkpoint
from glocal.run import Run
from processes import Command, run

OPTIONS = [
    "--method=vicreg",
    "--backbone=test_resnet",
    "--image-size=32",
    "--batch-size=4",
    "--max-steps=4",
    "--precision=32",
    "--threads=1",
    "--workers=0",
    "--compile=false",
    "--projector=16,16",
    "--accelerator=cpu",
    "--monitor-every=1",
]

SPY = '''
"""`glocal mine:spied`: a run that counts what each process asks the file system about the data."""
import json, os, time
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path

import glocal

RANK = os.environ.get("RANK", "0")
counts = {}


def counted(name, at):
    whole = getattr(os, name)

    def ask(path=".", *more, **named):
        if isinstance(path, (str, os.PathLike)) and "photos" in Path(path).parts:
            counts.setdefault(name, Counter())[str(path)] += 1
        return whole(path, *more, **named)

    setattr(os, name, ask)


def spied(data: str, *, out: str, resume: str = "") -> None:
    for name in ("scandir", "stat"):
        counted(name, os)
    options = json.loads(Path("options.json").read_text())
    glocal.pretrain(data, out=out, **options)
    Path(f"counts{RANK}.json").write_text(json.dumps(counts))
'''


def put(folder: Path, images: int = 16, splits: tuple[str, ...] = ("train", "test")) -> Path:
    """Photographs of two classes in each split."""
    rng = np.random.default_rng(0)
    for split in splits:
        for k in range(images):
            file = folder / split / "ab"[k % 2] / f"{k}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(file)
    return folder


@pytest.fixture
def hosts(tmp_path) -> list[Path]:
    """Two current folders, each with a copy of the photographs."""
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        put(folder / "photos")
    return folders


def own(hosts: list[Path]) -> dict:
    return {"cwd": hosts, "env": [{"HOME": str(h / "home"), "GLOCAL_CACHE": str(h / "cache")} for h in hosts]}


def test_hosts_with_files_and_caches_of_their_own_train_as_two_processes_of_one(hosts, tmp_path):
    options = [*OPTIONS, "--cache=true", "--report=false"]
    run("pretrain", "photos", "--out=run", *options, ranks=2, **own(hosts))
    assert not (hosts[1] / "run").exists()
    assert [len(list((host / "cache").glob("*/layout.npy"))) for host in hosts] == [1, 1]
    run("pretrain", "photos", "--out", tmp_path / "alone", *options, ranks=2, cwd=hosts[0])
    states = [read_checkpoint(Run(path))["method"] for path in (hosts[0] / "run", tmp_path / "alone")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


