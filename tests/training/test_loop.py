"""The loop: accumulation, broken images, divergence, collapse, several processes."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import glocal
from glocal.data import PartsWorld
from glocal.run import Run
from glocal.training import TrainingStopped, online_eval
from processes import run

TINY = {
    "method": "vicreg",
    "backbone": "tiny:Net",
    "image_size": 32,
    "batch_size": 8,
    "projector": (32, 32, 32),
    "report": False,
    "quiet": True,
    "precision": "32",
    "workers": 0,
}


def test_broken_images_are_skipped_and_named(photos, tmp_path, capsys):
    folder = tmp_path / "photos"
    shutil.copytree(photos / "train", folder)
    good = sorted(folder.rglob("*.jpg"))[0]
    (folder / "ant" / "truncated.jpg").write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    (folder / "bee" / "empty.png").write_bytes(b"")
    (folder / "cat" / "page.jpg").write_text("<html>not found</html>")
    run = glocal.pretrain(str(folder), out=str(tmp_path / "run"), epochs=3, **{**TINY, "quiet": False})
    skipped = (run / "skipped.txt").read_text()
    assert {line.split("\t")[0].rpartition("/")[2] for line in skipped.splitlines()} <= {
        "truncated.jpg",
        "empty.png",
        "page.jpg",
    }
    assert "truncated.jpg" in skipped
    said = capsys.readouterr()
    assert "could not be read" in said.out + said.err
    assert (run / "encoder.safetensors").exists()


def test_bf16_and_automatic_options_work(photos, tmp_path):
    run = glocal.pretrain(
        str(photos), method="vicregl", backbone="test_resnet", image_size=32, batch_size=4, max_steps=2,
        precision="bf16-mixed", projector=(16, 16), local_projector=(16, 16), report=False, quiet=True,
        out=str(tmp_path / "run"),
    )  # fmt: skip
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["preset"] == "small"
    assert config["output_stride"] == 8
    assert (config["optimizer"], config["trust_coefficient"]) == ("lars", 0.02)
    assert None not in [config[name] for name in ("lr", "epochs", "workers", "weight_decay", "precision", "threads")]
    again = glocal.pretrain(**config, out=str(tmp_path / "again"), quiet=True)
    assert (run / "encoder.safetensors").read_bytes() == (again / "encoder.safetensors").read_bytes()


def test_a_run_does_not_touch_the_callers_generators(photos, tmp_path):
    before = torch.get_rng_state(), random.getstate()
    glocal.pretrain(str(photos), out=str(tmp_path / "run"), max_steps=2, **TINY)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()


def test_divergence_stops_with_a_reason_and_keeps_the_last_good_checkpoint(photos, tmp_path):
    with pytest.raises(TrainingStopped, match=r"not finite.*--lr"):
        glocal.pretrain(
            str(photos), out=str(tmp_path / "run"), epochs=30, optimizer="sgd", lr=1e12, checkpoint_steps=1, **TINY
        )
    state = torch.load(tmp_path / "run" / "checkpoints" / "last.pt", weights_only=True)["method"]
    assert all(torch.isfinite(value).all() for value in state.values())


def test_collapse_stops_with_a_diagnosis(tmp_path):
    """Decay that outweighs the gradient takes every feature to one point."""
    with pytest.raises(TrainingStopped, match="collapse"):
        glocal.pretrain(
            "parts:n=64,size=40", out=str(tmp_path / "run"), epochs=6, variance_weight=0.0, covariance_weight=0.0,
            optimizer="adamw", lr=0.02, weight_decay=20.0, monitor_every=1, **TINY,
        )  # fmt: skip


def test_collapse_behind_the_projector_stops_too(tmp_path):
    """Without variance and covariance the embeddings fall on one point long before the encoder's features do."""
    world = PartsWorld(64, 40)
    images = np.stack([world.sample(i).image for i in range(64)])
    with pytest.raises(TrainingStopped, match="nothing is left to learn"):
        glocal.pretrain(
            images, out=str(tmp_path / "run"), epochs=20, variance_weight=0.0, covariance_weight=0.0,
            optimizer="adamw", lr=0.006, monitor_every=5, **TINY,
        )  # fmt: skip


def test_accumulation_averages_the_gradients_of_micro_batches(photos, tmp_path, monkeypatch):
    """k micro-batches at batch b/k take the step that the mean of their k gradients asks for."""
    seen = []
    step = torch.optim.SGD.step

    def spy(self, *args, **kwargs):
        seen.append([p.grad.clone() for group in self.param_groups for p in group["params"]])
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.SGD, "step", spy)
    common = {**TINY, "optimizer": "sgd", "lr": 0.0, "batch_size": 4, "epochs": 2}
    glocal.pretrain(str(photos), out=str(tmp_path / "a"), max_steps=2, **common)
    glocal.pretrain(str(photos), out=str(tmp_path / "b"), max_steps=1, accumulate=2, **{**common, "batch_size": 8})
    for one, two, both in zip(*seen, strict=True):
        torch.testing.assert_close((one + two) / 2, both, rtol=1e-4, atol=1e-6)


def test_watch_sees_training_images_only_and_reports(photos, tmp_path):
    run = glocal.pretrain(str(photos), out=str(tmp_path / "run"), epochs=2, monitor_every=1, **TINY)
    looked = [line for line in Run(run).metrics() if "rank_pooled" in line]
    assert [line["epoch"] for line in looked] == [1, 2]
    assert all(0 <= line["knn_top1"] <= 1 and line["rank_dense"] >= 1 for line in looked)
    assert online_eval.IMAGES <= 1000


def test_metrics_survive_a_half_written_line(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0}) + '\n{"step": 2, "lo')
    assert Run(tmp_path).metrics() == [{"step": 1, "loss": 2.0}]


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path):
    """Two CPU processes end near one process of twice the batch: same joined batches, statistics and steps."""
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for k in range(16):
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), dtype=np.uint8)).save(folder / f"{k}.png")
    options = [f"--{k.replace('_', '-')}={list(v) if isinstance(v, tuple) else v}" for k, v in TINY.items()]
    options = [o for o in options if not o.startswith(("--batch-size", "--backbone"))]
    options += [
        "--backbone=test_resnet",
        "--max-steps=3",
        "--monitor-every=9",
        "--optimizer=sgd",
        "--lr=0.05",
        "--accelerator=cpu",
    ]
    run("pretrain", folder, "--out", tmp_path / "one", *options, "--batch-size=8")
    run("pretrain", folder, "--out", tmp_path / "two", *options, "--batch-size=4", "--devices=2")
    run("pretrain", folder, "--out", tmp_path / "torchrun", *options, "--batch-size=4", ranks=2)
    one, two, torchruns = (
        torch.load(tmp_path / name / "checkpoints" / "last.pt", weights_only=True)["method"]
        for name in ("one", "two", "torchrun")
    )
    for name, value in one.items():
        # roundings that a ReLU tips over grow in three steps; without joined statistics they would differ by half
        off = (two[name] - value).double().norm() / value.double().norm().clamp_min(1e-12)
        assert off < (0.003 if value.ndim > 1 else 0.1), name
        assert torch.equal(two[name], torchruns[name]), name
