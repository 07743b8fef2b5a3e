"""The examples of docs/architecture.md, saved as the page says and used as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import glocal
from glocal import plugins
from glocal.data import open_source
from glocal.evaluation import Pixels
from glocal.pipeline.prepare import build_method
from glocal.pipeline.start import stored_config
from glocal.run import Run

PAGE = (Path(__file__).parent.parent / "docs" / "architecture.md").read_text()
TINY = {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "workers": 0, "report": False, "quiet": True}


@pytest.fixture
def examples(module_here) -> Path:
    return module_here("\n\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)))


def test_the_example_method_is_short():
    first = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert first is not None
    assert "class Spread" in first[1]
    assert len(first[1].splitlines()) <= 45


@pytest.mark.parametrize(
    ("method", "terms"), [("Spread", ["invariance", "variance"]), ("Centred", ["invariance", "size"])]
)
def test_the_methods_and_the_source_train(examples, tmp_path, method, terms):
    options = {"method": f"mine:{method}", "width": 16, "max_steps": 3, "precision": "32"}
    run = Run(glocal.pretrain("mine:Noise:24", out=str(tmp_path / "run"), **options, **TINY))
    line = next(line for line in run.metrics() if line["step"] == 3)
    assert sum(line[f"loss/{term}"] for term in terms) == pytest.approx(line["loss"])
    before = build_method(stored_config(run, trust_code=True)).state_dict()
    after = glocal.load_method(run, trust_code=True).state_dict()
    assert before.keys() == after.keys()
    assert before["projector.3.weight"].shape == (16, 16)
    assert [name for name in before if torch.equal(before[name], after[name])] == []


def test_the_task_and_the_source_evaluate(examples):
    pixels = Pixels(stride=8, image_size=32)
    for cosine in (False, True):
        options = {"task_options": {"mine:nearest_mean": {"cosine": cosine}}}
        scores = glocal.evaluate(pixels, "mine:Noise:40", image_size=32, tasks=["mine:nearest_mean"], **options)
        assert scores["mine:nearest_mean"]["top1"] == 1
        assert scores["meta"]["split"] == "test"


def test_the_command_counts(examples, capsys):
    plugins.find("commands", "mine:count")("mine:Noise:7", split="test")
    assert capsys.readouterr().out == "7 images\n"


def test_the_source_is_another_one_in_each_split(examples):
    train, test = (open_source("mine:Noise:4", split=split) for split in ("train", "test"))
    assert (train.open(0).decode() != test.open(0).decode()).any()
    left = test.open(1).decode()
    assert left[:, :16].min() >= 127 >= left[:, 16:].max()
