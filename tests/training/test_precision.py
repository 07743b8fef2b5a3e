"""Autocast computes in half precision; coordinates keep theirs."""

from __future__ import annotations

import pytest
import torch

import glocal
from glocal.methods import VICReg
from glocal.methods.vicregl import VICRegL
from glocal.training import TrainingStopped


@pytest.mark.parametrize("precision", ["bf16-mixed", "32-true"])
def test_a_method_receives_the_map_home_in_full_precision(precision, tmp_path, monkeypatch) -> None:
    seen = []
    forward = VICRegL.forward

    def spy(self, batch):
        seen.append((batch.views[0].affine.dtype, self.projector(torch.zeros(4, self.encoder.dim)).dtype))
        return forward(self, batch)

    monkeypatch.setattr(VICRegL, "forward", spy)
    glocal.pretrain(
        "parts:n=16,size=32",
        method="vicregl",
        backbone="test_resnet",
        image_size=32,
        batch_size=8,
        max_steps=1,
        precision=precision,
        workers=0,
        report=False,
        quiet=True,
        preset="official",
        projector=(16, 16),
        local_projector=(8, 8),
        out=str(tmp_path / "run"),
    )
    half = torch.bfloat16 if precision == "bf16-mixed" else torch.float32
    assert seen == [(torch.float32, half)]


def test_clipping_an_overflow_is_left_to_the_scaler_or_said(tmp_path, monkeypatch) -> None:
    """The scaler of fp16 skips such a step; without one, what is said is not an error of the clipping."""
    forward = VICReg.forward

    def overflowing(self, batch):
        loss = forward(self, batch)
        loss.total.register_hook(lambda gradient: gradient * torch.inf)
        return loss

    monkeypatch.setattr(VICReg, "forward", overflowing)
    sizes = {"image_size": 32, "batch_size": 8, "max_steps": 1, "workers": 0, "projector": (8, 8)}
    options = {**sizes, "precision": "32", "clip": 1.0, "report": False, "quiet": True, "out": str(tmp_path / "run")}
    with pytest.raises(TrainingStopped, match="no longer finite"):
        glocal.pretrain("parts:n=16,size=32", method="vicreg", backbone="test_resnet", **options)
