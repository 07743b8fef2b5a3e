"""The teacher as an encoder: opened, scored, handed over."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import glocal
from glocal import cli
from glocal.errors import UsageError
from glocal.report import write_report

TINY = {"backbone": "test_resnet", "image_size": 64, "batch_size": 8, "max_steps": 3, "workers": 0, "precision": "32"}
DATA = np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), dtype=np.uint8)  # no labels: few tasks


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("teacher") / "run"
    return str(glocal.pretrain(DATA, method="byol", out=str(out), report_images=10, quiet=True, **TINY))


def test_the_teacher_is_the_one_of_the_checkpoint(run):
    teacher, method = glocal.load(run, which="teacher"), glocal.load_method(run)
    x = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not teacher.training
    with torch.no_grad():
        assert teacher(x).pooled.equal(method.teacher(x).pooled)
        assert not teacher(x).pooled.allclose(glocal.load(run)(x).pooled)


def test_both_are_scored_and_stand_in_the_report(run):
    scores = json.loads(Path(run, "evaluation.json").read_text())
    assert scores["teacher"].keys() == {"correspond", "rank", "stability", "meta"}
    options = {"tasks": ["rank"], "limit": 10}
    assert glocal.evaluate(run, DATA, which="teacher", **options)["rank"] == scores["teacher"]["rank"]
    text = write_report(run).read_text()
    assert "Its teacher" in text
    assert "against Its teacher" not in text  # it is no baseline


def test_it_is_handed_over(run, tmp_path):
    glocal.export(run, which="teacher", format="timm", out=str(tmp_path / "out"))
    model = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    theirs = glocal.load(run, which="teacher").state_dict()
    assert all(value.equal(theirs[f"model.{name}"]) for name, value in model.state_dict().items())


def test_the_command_takes_it(run, tmp_path):
    for k, which in enumerate(("student", "teacher")):
        Image.fromarray(DATA[k]).save(tmp_path / f"{k}.png")
        cli.main(["embed", run, str(tmp_path), "--which", which, "--out", f"{tmp_path}/{which}.npz"])
        found = np.load(f"{tmp_path}/{which}.npz")["pooled"][0]
        wanted = glocal.embed(glocal.load(run, which=which), DATA[:1]).pooled[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)  # in a batch of another size


def test_a_method_without_one_says_so(tmp_path):
    run = glocal.pretrain(DATA, method="vicreg", out=str(tmp_path / "run"), report=False, quiet=True, **TINY)
    with pytest.raises(UsageError, match="VICReg keeps no teacher"):
        glocal.load(str(run), which="teacher")
