"""The evidence for each method: the harness runs, begins where it says, and judges by its rule."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch

import glocal
from glocal.backbones import build_backbone
from glocal.methods import method_class, method_names
from glocal.training.defaults import finer_stride
from replications import methods, protocol
from replications.evidence import checks, code_lines
from replications.protocol import RUN, Arm, keep, untrained

TINY = {"method": "vicreg", "backbone": "test_resnet", "image_size": 32}


@pytest.fixture
def small(tmp_path, photos, monkeypatch):
    """The data folder, for runs of two steps whose results are kept aside."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "clothing").symlink_to(photos)
    monkeypatch.setattr(protocol, "RESULTS", tmp_path / "results")
    for name, value in {"STEPS": 2, "SETS": ("clothing",), "COMMON": {"batch_size": 8}}.items():
        monkeypatch.setattr(methods, name, value)
    return tmp_path / "data"


@pytest.mark.slow
def test_a_method_is_trained_measured_and_shown(small, tmp_path):
    arm = Arm("vicreg", TINY)
    random = Arm("random", {key: value for key, value in TINY.items() if key != "method"})
    for seed in (0, 1):
        for each in (random, arm):
            todo = partial(methods.run, each, seed, small, tmp_path / "runs")
            result = keep("methods", each, seed, todo)
    assert result["images"] == 16
    assert result["train_cpu_seconds"] > 0
    dim = glocal.load(str(tmp_path / "runs" / "methods-vicreg-0")).dim
    assert result["head_parameters"] == dim * 256 + 2 * 256**2 + 4 * 256  # three layers, two with norms, none with bias
    row = next(line for line in methods.table().splitlines() if line.startswith("| vicreg |"))
    assert "not run" not in row
    assert "naive float64 loops" in row
    assert row.endswith("| 1.0 |")
    again = methods.run(arm, 0, small, tmp_path / "runs")  # a run that is there is gone on with: its cost is unknown
    assert again["train_cpu_seconds"] is None


@pytest.mark.parametrize("name", method_names())
def test_it_is_compared_with_the_weights_it_began_with(name):
    """By name: as many cells, pooled in the same way, as glocal decides."""
    arm = next(arm for arm in methods.ARMS if arm.name == name)
    begin, cls = methods.RANDOM[methods.baseline(name)], method_class(name)
    assert {key: begin[key] for key in ("backbone", "image_size")} == {
        key: arm.options[key] for key in ("backbone", "image_size")
    }
    stride = build_backbone(begin["backbone"], image_size=begin["image_size"]).stride
    assert finer_stride(begin["image_size"], stride, getattr(cls, "least_cells", 0)) is None
    if "vit" in begin["backbone"]:
        assert begin.get("pool", "native") == cls.pool


def test_a_run_begins_with_these_weights(small, tmp_path):
    options = {**RUN, **TINY, "batch_size": 8, "max_steps": 1, "lr": 0.0, "weight_decay": 0.0, "seed": 3}
    run = glocal.pretrain(str(small / "clothing"), out=str(tmp_path / "run"), **options)
    ours, theirs = untrained(TINY, 3), glocal.load(str(run))
    for (name, a), b in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [([0.1, 0.11, 0.12], "yes"), ([0.0, 0.1, 0.2], "no"), ([-0.1, -0.1, -0.11], "no"), ([0.1], "not run yet")],
)
def test_the_rule_is_two_standard_errors(small, gains, verdict):
    """The second: .1 ± .0577."""
    for seed, gain in enumerate(gains):
        for name, linear in (("random", 0.3 + seed), ("vicreg", 0.3 + seed + gain)):
            scores = {"scores": {"linear": linear, "knn": 0.2}, "train_cpu_seconds": 4.0, "images": 2}
            keep("methods", Arm(name), seed, lambda scores=scores: scores)
    assert methods.verdict(methods.gain(protocol.kept("methods"), "vicreg")) == verdict


def test_marks_are_read():
    parity = checks("parity")
    assert "lightly" in [check.oracle for check in parity["vicreg"]]
    assert all((Path(__file__).parents[1] / check.path).exists() for found in parity.values() for check in found)


def test_code_lines_are_code():
    assert (
        code_lines('"""Words.\n\nMore."""\n\nimport os\n# why\nx = 1\n\n\ndef f():\n    """Words."""\n    return 2\n')
        == 3
    )
