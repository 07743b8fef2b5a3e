"""CUDA's algorithms: the fastest, or those that sum in one order; on the CPU nothing changes."""

from __future__ import annotations

import os
from contextlib import suppress

import pytest
import torch
import yaml

import glocal
from glocal.errors import UsageError
from glocal.pipeline import start
from glocal.pipeline.launch import WORKSPACE, algorithms
from glocal.run import Run

CUDA = torch.device("cuda", 0)
OPTIONS = {"method": "vicreg", "backbone": "test_resnet", "image_size": 32, "batch_size": 8, "max_steps": 2}
OPTIONS |= {"workers": 0, "report": False, "quiet": True, "projector": (8, 8), "precision": "32", "cache": False}


def state():
    """What of PyTorch decides on algorithms."""
    return {
        "strict": torch.are_deterministic_algorithms_enabled()
        and not torch.is_deterministic_algorithms_warn_only_enabled(),
        "cudnn": torch.backends.cudnn.deterministic,
        "tried": torch.backends.cudnn.benchmark,
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "workspace": os.environ.get(WORKSPACE),
    }


@pytest.fixture(autouse=True)
def plain(monkeypatch):
    monkeypatch.delenv(WORKSPACE, raising=False)
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)  # whatever ran before
    assert state() == {"strict": False, "cudnn": False, "tried": False, "filled": True, "workspace": None}


@pytest.mark.parametrize(("device", "deterministic"), [("cuda", True), ("cuda", False), ("cpu", True), ("mps", True)])
def test_cuda_takes_what_is_asked_for_and_all_is_as_before_afterwards(device, deterministic):
    before = state()
    with suppress(KeyError), algorithms(torch.device(device), deterministic=deterministic):
        within = state()
        raise KeyError
    assert state() == before
    fixed = {"strict": True, "cudnn": True, "tried": False, "filled": False, "workspace": ":4096:8"}
    assert within == ({**before, "tried": True} if not deterministic else fixed if device == "cuda" else before)


def test_what_a_person_has_set_stays(monkeypatch):
    monkeypatch.setenv(WORKSPACE, ":16:8")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        with algorithms(CUDA, deterministic=True):
            assert state()["strict"]
            assert os.environ[WORKSPACE] == ":16:8"
        assert torch.is_deterministic_algorithms_warn_only_enabled()
        assert os.environ[WORKSPACE] == ":16:8"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (
            "adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation, but you set 'torch.use_",
            "--deterministic: adaptive_avg_pool2d_backward_cuda does not have a deterministic implementation; take",
        ),
        (
            f"this operation is not deterministic because it uses CuBLAS: {WORKSPACE}=:4096:8",
            "used the GPU before: set CUBLAS_WORKSPACE_CONFIG=:4096:8 when",
        ),
    ],
)
def test_an_operation_that_cannot_is_named_in_a_line(said, told):
    with pytest.raises(UsageError, match=told), algorithms(CUDA, deterministic=True):
        raise RuntimeError(said)
    with pytest.raises(RuntimeError, match="in deterministic/run"), algorithms(CUDA, deterministic=True):
        raise RuntimeError("a worker died in deterministic/run")


def test_all_of_a_run_is_under_it_and_config_yaml_says_so(tmp_path, monkeypatch):
    """Before the network is built, since what is measured with it would be the first to multiply matrices."""
    seen = []
    for name in ("open_together", "prepare", "fit", "conclude"):
        original = getattr(start, name)
        spy = lambda *given, name=name, original=original, **named: (
            seen.append((name, *asked)) or original(*given, **named)
        )
        monkeypatch.setattr(start, name, spy)
    asked = []

    class Told:
        def __init__(self, device, *, deterministic):
            asked.extend([device.type, deterministic])

        def __enter__(self):
            pass

        def __exit__(self, *_):
            asked.clear()

    monkeypatch.setattr(start, "algorithms", Told)
    run = glocal.pretrain("parts:n=16,size=32", **OPTIONS, deterministic=True, out=str(tmp_path / "run"))
    assert seen == [(name, "cpu", True) for name in ("open_together", "prepare", "fit", "conclude")]
    assert not asked
    assert yaml.safe_load(Run(run).config_file.read_text())["deterministic"] is True


def test_on_the_cpu_it_changes_nothing(tmp_path):
    weights = []
    for deterministic in (False, True):
        out = str(tmp_path / str(deterministic))
        encoder = glocal.load(glocal.pretrain("parts:n=16,size=32", **OPTIONS, deterministic=deterministic, out=out))
        weights.append(torch.cat([parameter.flatten() for parameter in encoder.parameters()]))
    assert torch.equal(*weights)
