"""Runs on streams: one pass of so many steps, resumed at a position, ended where there are no more images."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import glocal
from glocal.config import PretrainConfig
from glocal.data import Stream, stream as streams
from glocal.errors import UsageError
from glocal.methods import DeepCluster
from glocal.report import write_report
from glocal.run import Run
from glocal.training import Machine, TrainingStopped, online_eval, resolve
from power import pulled_after
from processes import run

TINY = {
    "method": "seer", "backbone": "tiny:Net", "image_size": 32, "batch_size": 4, "projector": (16, 8),
    "prototypes": 8, "small_crops": 0, "report": False, "quiet": True, "precision": "32", "threads": 1,
    "compile": False,
}  # fmt: skip
STEPS = 12


def picture(k: int) -> np.ndarray:
    """Blotches of a few colours."""
    colours = np.random.default_rng(k).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return np.kron(colours, np.ones((10, 10, 1), np.uint8))


def images(number: int):
    return [(f"frame {k}", picture(k)) for k in range(number)]


def add(folder: Path, first: int, last: int, *, broken=()) -> None:
    """Images come into a folder, later than those that are there."""
    folder.mkdir(exist_ok=True)
    before = max((path.stat().st_ctime_ns for path in folder.iterdir()), default=0)
    for k in range(first, last):
        path = folder / f"{1000 - k}.png"  # not the order of their names
        while not path.exists() or path.stat().st_ctime_ns <= before:
            Image.fromarray(picture(k)).save(path) if k not in broken else path.write_bytes(b"broken")
        before = path.stat().st_ctime_ns


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(streams, "SETTLED", 0)


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(Run(run).checkpoint_file, weights_only=True)["method"]


def assert_identical(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert [name for name, value in one.items() if not torch.equal(value, other[name])] == []
    assert one.keys() == other.keys()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run on 60 images that nobody disturbed."""
    out = tmp_path_factory.mktemp("runs") / "whole"
    return glocal.pretrain(images(60).__iter__(), out=str(out), max_steps=STEPS, **TINY)


def test_one_pass_counted_in_steps(whole):
    config, run = yaml.safe_load((whole / "config.yaml").read_text()), Run(whole)
    assert (config["epochs"], config["max_steps"], config["cache"], config["workers"]) == (1, STEPS, False, 0)
    assert run.metrics()[-1]["step"] == STEPS
    position = torch.load(run.checkpoint_file, weights_only=True)["position"]
    assert position["passed"] == (47, Stream(images(60)).passed(47))
    extra = json.loads((whole / "encoder.json").read_text())["extra"]
    assert (extra["steps"], extra["images"]) == (STEPS, 48)


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (5, 2), (8, 1)])
def test_resume_is_bit_exact_at_any_step_though_the_stream_has_grown(whole, tmp_path, monkeypatch, stop, workers):
    out = tmp_path / "stopped"
    with pulled_after(stop, monkeypatch):
        glocal.pretrain(Stream(images(40)), out=str(out), workers=workers, max_steps=STEPS, checkpoint_steps=2, **TINY)
    opened = []

    def image(k):
        return f"frame {k}", lambda: opened.append(k) or picture(k)

    glocal.pretrain(Stream([image(k) for k in range(60)]), resume=str(out), trust_code=True, workers=0, quiet=True)
    done = 4 * (stop // 2 * 2)
    assert opened[: 48 - done] == list(range(done, 48)), "nothing is opened twice"
    assert sorted(opened[48 - done :]) == list(range(60)), "what looks at the encoder opens the first ones"
    assert_identical(whole, out)


def test_a_run_whose_stream_ended_goes_on_when_there_is_more(whole, tmp_path, capsys):
    out = tmp_path / "run"
    glocal.pretrain(Stream(images(30)), out=str(out), max_steps=STEPS, workers=1, **TINY | {"quiet": False})
    assert "the stream ended after 28 images, at step 7 of 12" in capsys.readouterr().err
    assert json.loads((out / "encoder.json").read_text())["extra"]["images"] == 28
    glocal.pretrain(Stream(images(31)), resume=str(out), trust_code=True)
    assert "the stream ended after 28 images, at step 7 of 12" in capsys.readouterr().err
    glocal.pretrain(Stream(images(60)), resume=str(out), trust_code=True, quiet=True)
    assert_identical(whole, out)
    steps = [line["step"] for line in Run(out).metrics() if "loss" in line]
    assert steps == sorted(set(steps))


def test_a_folder_that_grows_between_two_sittings(tmp_path):
    add(tmp_path / "photos", 0, 26, broken={9})
    spec = f"stream:{tmp_path / 'photos'}"
    run = glocal.pretrain(spec, out=str(tmp_path / "run"), max_steps=STEPS, workers=1, **TINY)
    assert Run(run).skipped() == ["991.png\tnot an image"]
    add(tmp_path / "photos", 26, 60)
    glocal.pretrain(resume=str(run), trust_code=True, quiet=True)
    whole = glocal.pretrain(spec, out=str(tmp_path / "whole"), max_steps=STEPS, workers=0, **TINY)
    assert_identical(whole, run)
    assert Run(whole).skipped() == ["991.png\tnot an image"]


def test_what_was_seen_must_be_what_it_was(tmp_path):
    add(tmp_path / "photos", 0, 26)
    spec = f"stream:{tmp_path / 'photos'}"
    run = glocal.pretrain(spec, out=str(tmp_path / "run"), max_steps=STEPS, workers=0, **TINY)
    shutil.copy(tmp_path / "photos" / "990.png", tmp_path / "kept.png")
    (tmp_path / "photos" / "990.png").unlink()
    with pytest.raises(UsageError, match=r"photos has only 23 images|its first 24 images are others"):
        glocal.pretrain(resume=str(run), trust_code=True, quiet=True)
    add(tmp_path / "photos", 26, 30)
    with pytest.raises(UsageError, match=r"the data of .* has changed \(its first 24 images are others\)"):
        glocal.pretrain(resume=str(run), trust_code=True, quiet=True)
    glocal.pretrain(resume=str(run), trust_code=True, quiet=True, accept_changed_data=True)


def test_a_run_on_a_folder_does_not_go_on_with_a_stream(tmp_path, photos):
    run = glocal.pretrain(str(photos), out=str(tmp_path / "run"), max_steps=2, workers=0, **TINY)
    with pytest.raises(UsageError, match="has changed"):
        glocal.pretrain(images(60).__iter__(), resume=str(run), trust_code=True, quiet=True)


def test_it_is_looked_at_and_reported(tmp_path, capsys, monkeypatch):
    looked = []
    look = online_eval.OnlineEval.__init__

    def spy(self, source, **settings):
        looked.append(len(source))
        look(self, source, **settings)

    monkeypatch.setattr(online_eval.OnlineEval, "__init__", spy)
    add(tmp_path / "photos", 0, 40)
    spec = f"stream:{tmp_path / 'photos'}"
    run = glocal.pretrain(spec, out=str(tmp_path / "run"), max_steps=3, workers=1, **TINY | {"report": True})
    assert looked == [40]
    scores = json.loads((run / "evaluation.json").read_text())
    assert {"rank", "correspond", "start", "pixels"} <= scores.keys()
    assert "<svg" in (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert "trained on 12 images of photos" in write_report(run, trust_code=True).read_text()
    glocal.embed(str(run), spec, trust_code=True)
    assert "40 of 40 images embedded; the first of a stream" in capsys.readouterr().err


def test_it_is_looked_at_while_it_trains(tmp_path, monkeypatch):
    monkeypatch.setattr(streams, "HELD", 64)
    endless = ((str(k), picture(k % 50)) for k in range(10**9))
    run = Run(glocal.pretrain(endless, out=str(tmp_path / "run"), max_steps=101, **TINY | {"batch_size": 2}))
    assert [line["step"] for line in run.metrics() if "rank_pooled" in line] == [100, 101]


MACHINE = Machine(cores=4, threads=3, precision="32-true")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "camera is a stream: a schedule needs its length: give --max-steps"),
        ({"max_steps": 9, "epochs": 2}, "it is gone through once: leave out --epochs and --cache"),
        ({"max_steps": 9, "cache": True}, "it is gone through once: leave out --epochs and --cache"),
        ({"max_steps": 9, "method": "deepcluster"}, f"{DeepCluster.title} looks at all images before an epoch"),
        ({"max_steps": 9, "method": "deepcluster_v2"}, "looks at all images before an epoch: take another --method"),
        ({"max_steps": 9, "workers": 2}, "this process alone reads an iterator: leave out --workers"),
    ],
)
def test_what_cannot_be_done_with_one_is_refused_before_anything_begins(options, says):
    with pytest.raises(UsageError, match=says):
        resolve(PretrainConfig(**{"method": "seer"} | options), Stream((i for i in ()), name="camera"), MACHINE)


def test_methods_that_need_labels_are_refused_before_a_run_is_made(tmp_path):
    options = {**TINY, "method": "paws", "max_steps": 2}
    for name in ("prototypes", "projector", "small_crops"):
        del options[name]
    with pytest.raises(UsageError, match="stream has no labels, of which this method needs a few"):
        glocal.pretrain(Stream(images(20)), out=str(tmp_path / "run"), **options)
    assert not (tmp_path / "run").exists()


def test_a_stream_stands_alone(photos):
    for data in ([f"stream:{photos}", str(photos)], [Stream([]), Stream([])]):
        with pytest.raises(UsageError, match="a stream among other data: give it alone"):
            glocal.pretrain(data, max_steps=1, **TINY)
    with pytest.raises(UsageError, match="--max-steps"):
        glocal.pretrain([f"stream:{photos}"], **TINY)


def test_what_goes_with_the_number_of_images_goes_with_the_steps():
    spec = {"method": "seer", "max_steps": 1000}
    small = resolve(PretrainConfig(**spec, batch_size=64), Stream([]), MACHINE)[0]
    large = resolve(PretrainConfig(**spec, batch_size=128, devices=2), Stream([]), MACHINE)[0]
    assert (small.config.preset, small.config.epochs, small.steps) == ("small", 1, 1000)
    assert (large.config.preset, large.config.epochs, large.steps) == ("paper", 1, 1000)
    left_open = resolve(PretrainConfig(**spec), Stream([]), MACHINE)[0]
    assert (left_open.config.batch_size, left_open.config.workers, left_open.steps) == (256, 4, 1000)
    assert resolve(left_open.config, Stream([]), MACHINE)[0].config == left_open.config
    short = resolve(PretrainConfig(method="seer", max_steps=2), Stream([]), MACHINE)[0]
    assert (short.config.epochs, short.steps) == (1, 2)


def test_a_stream_shorter_than_a_batch_teaches_nothing(tmp_path):
    with pytest.raises(TrainingStopped, match="the stream has not as many images as a batch"):
        glocal.pretrain(Stream(images(3)), out=str(tmp_path / "run"), max_steps=2, workers=0, **TINY)
    assert not (tmp_path / "run" / "encoder.json").exists()


def test_accumulated_micro_batches_are_of_one_step(tmp_path):
    options = {**TINY, "batch_size": 8, "accumulate": 2, "max_steps": 9}
    run = glocal.pretrain(Stream(images(30)), out=str(tmp_path / "run"), workers=0, **options)
    position = torch.load(Run(run).checkpoint_file, weights_only=True)["position"]
    assert (position["step"], position["batch"], position["passed"][0]) == (3, 6, 23)


def test_two_processes_end_together_though_one_has_images_left(tmp_path):
    """Of the fourth batch, images 24 to 31, only the second process lacks some."""
    add(tmp_path / "photos", 0, 29)
    options = [f"--{k.replace('_', '-')}={list(v) if isinstance(v, tuple) else v}" for k, v in TINY.items()]
    options = [option for option in options if not option.startswith("--quiet")]
    options += ["--max-steps=20", "--accelerator=cpu", "--workers=1", f"--out={tmp_path / 'run'}"]
    time.sleep(2.1)  # until files count, in a process that knows nothing of SETTLED = 0
    done = run("pretrain", f"stream:{tmp_path / 'photos'}", *options, ranks=2)
    assert "the stream ended after 24 images, at step 3 of 20" in done.stderr
    position = torch.load(Run(tmp_path / "run").checkpoint_file, weights_only=True)["position"]
    assert (position["step"], position["passed"][0]) == (3, 19)
