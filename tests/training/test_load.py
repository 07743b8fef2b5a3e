"""A run's whole method comes back as it was saved."""

from __future__ import annotations

import shutil

import pytest
import torch

import glocal
from glocal.errors import UsageError
from glocal.methods import BYOL


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return glocal.pretrain(
        "parts:n=16,size=40", method="byol", backbone="test_resnet", image_size=32, batch_size=8, max_steps=2, lr=0.01,
        output_stride=8, optimizer="sgd", projector=(16, 8), predictor=(16, 8), precision="32", workers=0,
        report=False, quiet=True, out=str(tmp_path_factory.mktemp("runs") / "byol"),
    )  # fmt: skip


def test_it_is_the_checkpoint_and_its_encoder_the_runs(run):
    before = torch.get_rng_state()
    method = glocal.load_method(run)
    assert torch.equal(before, torch.get_rng_state())
    assert isinstance(method, BYOL)
    assert not method.training
    saved = torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]
    state = method.state_dict()
    assert state.keys() == saved.keys()
    assert all(torch.equal(state[name], value) for name, value in saved.items())
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    encoder = glocal.load(str(run))
    with torch.no_grad():
        assert torch.equal(method.encoder(x).pooled, encoder(x).pooled)
        assert not torch.equal(method.teacher(x).pooled, encoder(x).pooled)
        assert method.heads(encoder(x).pooled).shape == (2, 8)
    assert method.encoder.config == encoder.config


def test_an_unfinished_run_has_one(run, tmp_path):
    shutil.copytree(run, tmp_path / "stopped")
    (tmp_path / "stopped" / "encoder.safetensors").unlink()
    assert isinstance(glocal.load_method(str(tmp_path / "stopped")), BYOL)


def test_what_is_no_run_or_has_no_checkpoint_or_a_damaged_one(run, tmp_path):
    with pytest.raises(UsageError, match="is not a run"):
        glocal.load_method(tmp_path)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("projector:\n- 16", "projector:\n- 24"))
    with pytest.raises(UsageError, match=r"the checkpoint of .* is of another config\.yaml"):
        glocal.load_method(copy)
    for name in ("last.pt", "previous.pt"):
        (copy / "checkpoints" / name).write_bytes(b"PK")
    with pytest.raises(UsageError, match=r"no whole checkpoint .*previous\.pt"):
        glocal.load_method(copy)
    for name in ("last.pt", "previous.pt"):
        (copy / "checkpoints" / name).unlink()
    with pytest.raises(UsageError, match=r"no whole checkpoint \(there is none\)"):
        glocal.load_method(copy)
