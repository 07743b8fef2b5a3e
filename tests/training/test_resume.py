"""A run that is killed and resumed ends with the very weights of one that was not."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import glocal
from glocal.backbones.weights import read_checkpoint
from glocal.errors import UsageError
from glocal.methods import MSN, Optimization
from glocal.pipeline.launch import Autocast
from glocal.run import Run
from glocal.training import optimizers
from glocal.training.checkpoint import Position, begun_under, restore, save_checkpoint
from glocal.training.logger import RunLogger
from power import pulled_after
from processes import Command

TINY = {
    "method": "vicregl",
    "backbone": "test_resnet",
    "image_size": 32,
    "batch_size": 4,
    "epochs": 3,
    "output_stride": 8,
    "projector": (32, 32, 32),
    "local_projector": (16, 16, 16),
    "drop_path": 0.2,
    "report": False,
    "quiet": True,
    "precision": "32",
    "threads": 1,
}
DATA = "parts:n=14,size=40"  # 3 steps an epoch, 9 in all


def weights(run: Path) -> dict[str, torch.Tensor]:
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]


def assert_identical(a: Path, b: Path) -> None:
    one, other = weights(a), weights(b)
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name
    assert (a / "encoder.safetensors").read_bytes() == (b / "encoder.safetensors").read_bytes()


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    return glocal.pretrain(DATA, out=str(tmp_path_factory.mktemp("runs") / "whole"), workers=0, **TINY)


def test_a_signal_in_the_last_step_leaves_a_whole_run(whole, tmp_path, monkeypatch):
    advance = RunLogger.advance

    def last(self: RunLogger, step: int) -> None:
        advance(self, step)
        if step == self.steps:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(RunLogger, "advance", last)
    run = glocal.pretrain(DATA, out=str(tmp_path / "run"), workers=0, **TINY)
    assert_identical(whole, run)
    one, other = (torch.load(Run(path).checkpoint_file, weights_only=True)["position"] for path in (whole, run))
    assert one | {"seconds": 0} == other | {"seconds": 0}
    assert [line.keys() for line in Run(run).metrics()] == [line.keys() for line in Run(whole).metrics()]


@pytest.mark.parametrize(("stop", "workers"), [(1, 0), (4, 2), (6, 1), (8, 0)])
def test_resume_is_bit_exact_at_any_step(whole, tmp_path, monkeypatch, stop, workers):
    out = tmp_path / "stopped"
    with pulled_after(stop, monkeypatch):
        glocal.pretrain(DATA, out=str(out), workers=workers, checkpoint_steps=2, **TINY)
    assert torch.load(out / "checkpoints" / "last.pt", weights_only=True)["position"]["step"] <= stop
    glocal.pretrain(resume=str(out), workers=(workers + 1) % 3, quiet=True)
    assert_identical(whole, out)
    steps = [line["step"] for line in Run(out).metrics() if "loss" in line]
    assert steps == sorted(set(steps)), "a step must stand once in metrics.jsonl"


def start(out: Path) -> tuple[Command, Path]:
    """The same run as a command of its own, and where its checkpoint will be."""
    options = [f"--{k.replace('_', '-')}={list(v) if isinstance(v, tuple) else v}" for k, v in TINY.items()]
    process = Command("pretrain", DATA, f"--out={out}", "--workers=1", "--checkpoint-steps=1", *options)
    return process, out / "checkpoints" / "last.pt"


def test_sigkill_then_resume(whole, tmp_path):
    out = tmp_path / "killed"
    process, last = start(out)
    seen, target, deadline = set(), 3, time.monotonic() + 240
    while len(seen) < target and process.poll() is None and time.monotonic() < deadline:
        if last.exists():
            seen.add(last.stat().st_mtime_ns)
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert torch.load(last, weights_only=True)["position"]["step"] < 9, err
    glocal.pretrain(resume=str(out), workers=0, quiet=True)
    assert_identical(whole, out)


def test_interrupt_saves_and_says_how_to_resume(whole, tmp_path):
    out = tmp_path / "interrupted"
    process, last = start(out)
    deadline = time.monotonic() + 240
    while not last.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert f"glocal pretrain --resume {out}" in err
    assert "Traceback" not in err
    glocal.pretrain(resume=str(out), workers=0, quiet=True)
    assert_identical(whole, out)


def test_a_run_from_before_parameters_were_spared_the_decay_goes_on_as_it_began(tmp_path, monkeypatch):
    options = {"method": "msn", "backbone": "test_vit", "image_size": 32, "batch_size": 4, "workers": 0, "epochs": 1}
    options |= {"report": False, "quiet": True, "precision": "32", "prototypes": 8}
    older = property(lambda self, now=MSN.optimization.fget: replace(now(self), no_decay=()))
    monkeypatch.setattr(MSN, "optimization", older)
    whole = glocal.pretrain("parts:n=16,size=40", out=str(tmp_path / "whole"), **options)
    with pulled_after(2, monkeypatch):
        glocal.pretrain("parts:n=16,size=40", out=str(tmp_path / "half"), checkpoint_steps=1, **options)
    monkeypatch.undo()
    path = Run(tmp_path / "half").checkpoint_file
    state = torch.load(path, weights_only=True)
    del state["optimization"]  # which they did not hold
    torch.save(state, path)
    glocal.pretrain(resume=str(tmp_path / "half"), quiet=True)
    assert_identical(whole, tmp_path / "half")


def test_a_run_goes_on_under_the_optimisation_it_began_with(tmp_path):
    spec = Optimization("lars", 0.3, 1e-4, frozen={"head": 1.0}, no_momentum=("top.",), trust_coefficient=0.02)
    now = Optimization("lars", 0.2, 1e-6, no_decay=("prototypes",), no_momentum=("top.",))
    layer, run = with_encoder(torch.nn.Linear(2, 2)), Run(tmp_path)
    run.checkpoint_file.parent.mkdir()
    optimizer = optimizers.build_optimizer(layer, spec, 0.1)
    save_checkpoint(run, layer, spec, optimizer, Autocast("bf16-mixed", "cpu"), Position(step=3))
    assert begun_under(read_checkpoint(run), now, 10) == spec


@pytest.mark.parametrize(("steps", "no_momentum"), [(29_999, ()), (30_000, ("top.",))])
def test_checkpoints_without_one_say_what_was_the_rule_then(steps, no_momentum):
    now = Optimization("sgd", 0.1, 0.0, no_decay=("prototypes",), no_momentum=("top.",))
    assert begun_under({}, now, steps) == replace(now, no_decay=(), no_momentum=no_momentum)


def with_encoder(layer: torch.nn.Module) -> torch.nn.Module:
    """As far as a checkpoint asks, a method."""
    layer.encoder = SimpleNamespace(config={})
    return layer


def test_a_run_that_began_with_weights_goes_on_without_their_file(tmp_path, quantised):
    """Also where the network has other parameters with those weights than without: no BatchNorm."""
    file = quantised("025")
    settings = TINY | {"backbone": "mobilenet_v1_025", "drop_path": 0.0, "max_steps": 3, "monitor_every": 9}
    run = glocal.pretrain(
        DATA, out=str(tmp_path / "run"), workers=0, pretrained=str(file), checkpoint_steps=1, **settings
    )
    checkpoints, encoder = run / "checkpoints", (run / "encoder.safetensors").read_bytes()
    ended = weights(run)
    assert not any("norm" in name for name in ended if name.startswith("encoder."))
    for there in (True, False):
        (checkpoints / "previous.pt").replace(checkpoints / "last.pt")
        assert read_checkpoint(Run(run))["position"]["step"] < 3
        if not there:
            file.unlink()
        glocal.pretrain(resume=str(run), quiet=True)
        assert all(torch.equal(value, ended[name]) for name, value in weights(run).items())
        assert (run / "encoder.safetensors").read_bytes() == encoder
    assert glocal.load(str(run)).pretrained == str(file)


def test_the_scale_of_losses_in_half_precision_is_part_of_a_checkpoint(tmp_path):
    layer = with_encoder(torch.nn.Linear(2, 2))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    used, fresh = (Autocast("16-mixed", "cpu") for _ in range(2))
    used.scaler.load_state_dict(used.scaler.state_dict() | {"scale": 128.0, "_growth_tracker": 7})
    save_checkpoint(Run(tmp_path), layer, Optimization("sgd", 0.1, 0.0), optimizer, used, Position(step=3))
    state = read_checkpoint(Run(tmp_path))
    assert restore(Run(tmp_path), state, optimizer, fresh).step == 3
    assert fresh.state_dict() == used.state_dict()


def test_a_checkpoint_that_is_none_is_refused_in_one_line(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    for content in (b"", b"not a checkpoint", bytes(range(256))):
        (tmp_path / "checkpoints" / "last.pt").write_bytes(content)
        for _ in range(2):
            with pytest.raises(UsageError, match="cannot be resumed from"):
                read_checkpoint(Run(tmp_path), set_aside=True)


def test_a_damaged_checkpoint_never_takes_the_place_of_the_whole_one_before(whole, tmp_path, monkeypatch):
    out = tmp_path / "damaged"
    with pulled_after(5, monkeypatch):
        glocal.pretrain(DATA, out=str(out), workers=0, checkpoint_steps=2, **TINY)
    run = Run(out)
    run.checkpoint_file.write_bytes(run.checkpoint_file.read_bytes()[:-100])
    before = run.previous_checkpoint.read_bytes()
    with pulled_after(0, monkeypatch):  # when the checkpoint of the start has been written
        glocal.pretrain(resume=str(out), quiet=True)
    assert run.previous_checkpoint.read_bytes() == before
    glocal.pretrain(resume=str(out), quiet=True)
    assert_identical(whole, out)
