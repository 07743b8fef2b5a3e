"""The examples of docs/architecture.md, saved as the page says and used as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import glocal
from glocal import plugins
from glocal.data import open_source
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


@pytest.mark.parametrize("method", ["Spread", "Centred"])
def test_the_methods_and_the_source_train(examples, tmp_path, method):
    options = {"method": f"mine:{method}", "width": 16, "lr": 0.01, "max_steps": 30}
    run = Run(glocal.pretrain("mine:Noise:64", out=str(tmp_path / "run"), **options, **TINY))
    losses = [line["loss"] for line in run.metrics() if "loss/invariance" in line]
    assert losses[-1] < 0.8 * losses[0]
    assert (run.config()["method"], run.config()["width"]) == (f"mine:{method}", 16)


def test_the_task_and_the_source_evaluate(examples):
    options = {"tasks": ["mine:nearest_mean"], "task_options": {"mine:nearest_mean": {"cosine": True}}}
    scores = glocal.evaluate("timm:test_resnet:random", "mine:Noise:40", image_size=32, **options)
    assert scores["mine:nearest_mean"]["top1"] > 0.9  # dark and light
    assert scores["meta"]["split"] == "test"
    plain = glocal.evaluate("timm:test_resnet:random", "mine:Noise:40", image_size=32, tasks=["mine:nearest_mean"])
    assert plain["mine:nearest_mean"]["top1"] > 0.9


def test_the_command_counts(examples, capsys):
    plugins.find("commands", "mine:count")("mine:Noise:7", split="test")
    assert capsys.readouterr().out == "7 images\n"


def test_the_source_is_another_one_in_each_split(examples):
    train, test = (open_source("mine:Noise:4", split=split) for split in ("train", "test"))
    assert (train.open(0).decode() != test.open(0).decode()).any()
    assert train.open(1).decode().min() >= 127 >= train.open(0).decode().max()
