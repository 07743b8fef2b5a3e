"""`torch.compile`: the same numbers, only in training, chosen by what was measured."""

from __future__ import annotations

import copy
import shutil
from types import SimpleNamespace

import pytest
import torch
import yaml

import glocal
from glocal.backbones import build_backbone
from glocal.fabric import Fabric
from glocal.training import compilation
from glocal.training.compilation import worth_compiling


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    yield build_backbone("test_vit", image_size=32)
    torch.compiler.reset()


def test_training_is_compiled_and_nothing_else(encoder):
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    encoder._compiled = torch.compile(encoder.model.forward_features, backend=counter)
    x, kept = torch.randn(2, 3, 32, 32), torch.tensor([0, 2])
    encoder.eval()(x)
    encoder.train()(x, kept)
    twin = copy.deepcopy(encoder)
    twin(x)
    assert counter.frame_count == 0
    encoder(x)
    assert counter.frame_count == 1


def decided(encoder, steps=10_000):
    return worth_compiling(Fabric(accelerator="cpu"), encoder, image_size=32, images=4, steps=steps)


def test_it_is_chosen_where_it_was_measured_to_be_faster(encoder, monkeypatch):
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    generator = torch.get_rng_state()
    assert decided(encoder, steps=100) == (False, "100 steps, too few to repay it")
    for times, expected in (((1.0, 0.8), True), ((1.0, 0.98), False)):
        measured = iter(times)
        monkeypatch.setattr(compilation, "_seconds", lambda *_, measured=measured: next(measured))
        worth, why = decided(encoder)
        assert worth is expected
        assert f"{times[0] / times[1]:.2f} times" in why
    monkeypatch.setattr(compilation, "_seconds", lambda *_: 0.01)
    assert decided(encoder) == (False, "a short run, which would not repay it")
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder._compiled is None


def test_several_processes_and_other_devices_are_not_tried(encoder):
    settings = {"image_size": 32, "images": 4, "steps": 10**6}
    several, other = (SimpleNamespace(world_size=n, device=torch.device(kind)) for n, kind in ((2, "cpu"), (1, "mps")))
    assert worth_compiling(several, encoder, **settings) == (False, "several processes")
    assert worth_compiling(other, encoder, **settings) == (False, "not tried on mps")


def test_a_compiler_that_fails_stops_nothing(encoder, monkeypatch):
    def no_compiler(*_args, **_options):
        def fail(_):
            raise RuntimeError("no working C++ compiler\nat all")

        return fail

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(compilation, "LONG", 0.0)
    assert decided(encoder) == (False, "the compiler fails here (no working C++ compiler)")


@pytest.mark.skipif(not (shutil.which("g++") or shutil.which("clang++")), reason="no C++ compiler")
def test_a_compiled_run_gives_the_same_weights_and_says_what_it_is(photos, tmp_path):
    options = {
        "method": "vicreg", "backbone": "tiny:Shallow", "image_size": 32, "batch_size": 4, "projector": (16, 16),
        "report": False, "quiet": True, "workers": 0, "precision": "32", "epochs": 100, "max_steps": 3,
        "optimizer": "sgd",
    }  # fmt: skip
    runs = [
        glocal.pretrain(str(photos), out=str(tmp_path / str(given)), compile=given, **options) for given in (True, None)
    ]
    assert [yaml.safe_load((run / "config.yaml").read_text())["compile"] for run in runs] == [True, False]
    ours, theirs = (glocal.load(str(run), trust_code=True).state_dict() for run in runs)
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-3, atol=1e-4)
