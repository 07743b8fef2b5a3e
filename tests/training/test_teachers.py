"""The loop with a teacher: schedules and frozen layers take effect, and a resumed run is the run."""

from __future__ import annotations

import pytest
import torch

import glocal
from power import left_after

TINY = {
    "method": "co-dino", "backbone": "test_vit", "image_size": 32, "batch_size": 8, "epochs": 3, "precision": "32",
    "hidden": 16, "bottleneck": 8, "outputs": 12, "cells": 2, "small_crops": 0, "report": False, "quiet": True,
    "workers": 0, "teacher_temperature": (0.04, 0.07),
}  # fmt: skip
DATA = "parts:n=32,size=32"  # 4 steps an epoch, 12 in all


def state(run):
    return torch.load(run / "checkpoints" / "last.pt", weights_only=True)


def test_schedules_reach_the_optimizer_and_resume_is_bit_exact(tmp_path, monkeypatch):
    decays, last, moved = [], [], []
    adamw_step = torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        decays.append([group["weight_decay"] for group in self.param_groups])
        norms = [p.grad.norm() for group in self.param_groups for p in group["params"] if p.grad is not None]
        assert max(norms) <= 3.001
        heads = [p for group in self.param_groups for p in group["params"] if p.shape == (12, 8)]
        before = [p.detach().clone() for p in heads]
        result = adamw_step(self, *args, **kwargs)
        last.append(len(heads))
        moved.append([not torch.equal(p, b) for p, b in zip(heads, before, strict=True)])
        return result

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    with left_after(6, tmp_path / "stopped", monkeypatch):
        whole = glocal.pretrain(DATA, out=str(tmp_path / "whole"), checkpoint_steps=2, **TINY)
    assert set(last) == {2}  # the last layers of both heads
    assert moved[0] == [False, False]  # a tenth of twelve steps
    assert all(all(each) for each in moved[1:])
    assert decays[0] == [pytest.approx(0.04), 0.0]
    assert decays[-1][0] == pytest.approx(0.4, rel=0.02)
    assert [d[0] for d in decays] == sorted(d[0] for d in decays)
    resumed = glocal.pretrain(resume=str(tmp_path / "stopped"), quiet=True)
    one, other = state(whole)["method"], state(resumed)["method"]
    assert {"temperature", "heads.center", "local_heads.center", "heads.teacher.last"} <= one.keys()
    assert one["heads.center"].abs().max() > 0
    assert one["temperature"] == pytest.approx(0.07)
    assert all(torch.equal(one[name], other[name]) for name in one)
