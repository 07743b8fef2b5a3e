"""MSN as a module, and its schedules."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from joint import views
from lightly.loss import MSNLoss
from support import TINY, build, make_batch

import glocal
from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.methods import method_class

SIZES = (64, 64, 32, 32)


@pytest.mark.parity("msn", oracle="lightly")
def test_msn_is_the_papers_loss_on_what_its_networks_say():
    method, batch = build("msn").double(), views(4, SIZES, dtype=torch.float64)
    with torch.no_grad():
        for p in method.teacher.parameters():
            p.mul_(1.1)
    reference = copy.deepcopy(method)
    torch.manual_seed(5)
    loss = method(batch)
    torch.manual_seed(5)
    kept = torch.randperm(16)[:14]  # of 4×4 patches, less 15%
    target, anchor, *small = (view.pixels for view in batch.views)
    pooled = [reference.encoder(anchor, kept).pooled, reference.encoder(torch.cat(small)).pooled]
    z = reference.projector(torch.cat(pooled))
    t = reference.teacher_projector(reference.teacher(target).pooled)
    expected = MSNLoss()(z, t, reference.prototypes)
    torch.testing.assert_close(loss.total, expected)
    loss.total.backward()
    expected.backward()
    for a, b in zip(method.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-6, atol=1e-9)
    assert 0 <= loss.terms["mean_entropy"] <= math.log(12)
    whole = views(4, SIZES, dtype=torch.float64)
    assert not torch.equal(reference(whole).total, reference(whole).total)  # other patches every time


def test_without_dropping_it_is_the_plain_forward_also_of_a_convolutional_network():
    method, batch = build("msn", backbone="test_resnet", patch_drop=0.0), views(4, SIZES)
    reference = copy.deepcopy(method)
    loss = method(batch).total
    target, anchor, *small = (view.pixels for view in batch.views)
    z = reference.projector(torch.cat([reference.encoder(x).pooled for x in (anchor, torch.cat(small))]))
    t = reference.teacher_projector(reference.teacher(target).pooled)
    torch.testing.assert_close(loss, MSNLoss()(z, t, reference.prototypes), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "option"), [("msn", "patch_drop=0"), ("loca", "query_keep=1")])
def test_a_network_that_needs_all_its_patches_is_refused_with_the_way_out(name, option):
    with pytest.raises(UsageError, match=option):
        method_class(name)(build_backbone("test_resnet"), **TINY[name])


@pytest.mark.parametrize("name", ["msn", "loca"])
def test_teachers_get_no_gradient_and_follow(name):
    method = build(name, momentum=0.8)
    method(make_batch(name, 4)).total.backward()
    learns = {n for n, p in method.named_parameters() if p.grad is not None}
    assert learns == {n for n, _ in method.named_parameters() if not n.startswith("teacher")}
    with torch.no_grad():
        for p in method.parameters():
            p.add_(torch.randn_like(p))
    before = copy.deepcopy(method)
    method.after_step(0.5)
    m = 0.8 + 0.2 * 0.5 / 1.25 if name == "msn" else 0.9  # linear and stretched; half a cosine
    head = ("teacher_projector", "projector") if name == "msn" else ("teacher_head", "head")
    for teacher, student in (("teacher", "encoder"), head):
        old, new = before.get_submodule(teacher), method.get_submodule(teacher)
        followed = before.get_submodule(student)
        for p, q, s in zip(new.parameters(), old.parameters(), followed.parameters(), strict=True):
            torch.testing.assert_close(p, m * q + (1 - m) * s, rtol=1e-5, atol=1e-6)


def test_schedules_are_those_of_a_longer_run_and_the_whole_gradient_is_clipped(tmp_path, monkeypatch):
    seen, step = [], torch.optim.AdamW.step

    def spy(self, *args, **kwargs):
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.stack([g.norm() for g in grads]).norm().item()
        seen.append((self.param_groups[0]["lr"], self.param_groups[0]["weight_decay"], norm))
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    options = {"projector": (16, 8), "prototypes": 12, "small_crops": 1, "small_size": 16, "entropy_weight": 1e3}
    glocal.pretrain(
        "parts:n=16,size=32", method="msn", backbone="test_vit", image_size=32, batch_size=8, epochs=4, lr=1e-3,
        warmup_epochs=0, precision="32", report=False, quiet=True, workers=0, out=str(tmp_path / "run"), **options,
    )  # fmt: skip
    lr, decay, _ = seen[-1]
    progress = 7 / 10  # of eight steps
    fall = 0.5 * (1 + math.cos(math.pi * progress))
    assert lr == pytest.approx(1e-3 * (1e-3 + (1 - 1e-3) * fall))
    assert decay == pytest.approx(0.4 - 0.36 * fall)
    assert max(norm for *_, norm in seen) == pytest.approx(3.0, rel=1e-3)
