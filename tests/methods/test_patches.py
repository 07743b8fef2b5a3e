"""Patches that change from step to step: the same for encoder and teacher, by the step alone; every method learns."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import glocal
from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.methods import DINO, check_fits, drawn_patch
from glocal.methods.distill import Distill
from glocal.run import Run
from glocal.views import multi_crop
from power import left_after

FLEXI = "replications.networks:flexivit_w64"
TINY = {"backbone": FLEXI, "image_size": 32, "patches": [4, 8, 16], "batch_size": 8, "workers": 0, "precision": "32"}
TINY |= {"max_steps": 6, "report": False, "quiet": True}
SMALL = {
    "dino": {"outputs": 32, "hidden": 32, "bottleneck": 16},
    "vicregl": {"projector": (32, 32), "local_projector": (16, 16), "small_crops": 1, "small_size": 16},
    "loca": {"clusters": 16, "small_crops": 1, "small_size": 16, "hidden": 32, "bottleneck": 16},
    "msn": {"projector": (32, 32, 16), "small_size": 16, "small_crops": 1},
    "distill": {"teacher": "timm:test_resnet:random", "beside": "vicreg"},
}


def dino(patch=8):
    return DINO(build_backbone(FLEXI, image_size=32, patch=patch), image_size=32, small_crops=0, **SMALL["dino"])


def test_teachers_follow_and_what_only_teaches_does_not(tmp_path):
    method = dino()
    for step in range(20):
        with drawn_patch(method, (4, 16), 0, step):
            assert method.encoder.patch == method.teacher.patch in (4, 16)
        assert method.encoder.patch == method.teacher.patch == 8
    with drawn_patch(method, (), 0, 0):
        assert method.encoder.patch == 8
    glocal.backbones.save_encoder(build_backbone("flexivit_tiny", image_size=32, patch=16), tmp_path)
    pupil = Distill(build_backbone(FLEXI, image_size=32), image_size=32, teacher=str(tmp_path))
    with drawn_patch(pupil, (4,), 0, 0):
        assert (pupil.encoder.patch, pupil.teacher.encoder.patch) == (4, 16)


def test_the_patch_follows_from_seed_and_step_and_all_are_drawn_alike():
    method = dino()

    def drawn(seed, step):
        with drawn_patch(method, (4, 8, 16), seed, step):
            return method.encoder.patch

    found = [drawn(0, step) for step in range(300)]
    assert found == [drawn(0, step) for step in range(300)]
    assert found != [drawn(1, step) for step in range(300)]
    assert set(found) == {4, 8, 16}
    assert max(Counter(found).values()) < 140


@pytest.mark.parametrize("method", SMALL)
def test_every_kind_of_method_trains_and_resumes_to_the_bit(method, tmp_path, monkeypatch):
    stopped, patches = tmp_path / "stopped", []
    forward = glocal.backbones.Backbone.forward
    see = lambda self, *given: patches.append(self.patch) or forward(self, *given)
    options = {**TINY, **SMALL[method], "method": method}
    with left_after(3, stopped, monkeypatch):
        monkeypatch.setattr(glocal.backbones.Backbone, "forward", see)
        whole = Run(glocal.pretrain("parts:n=16,size=32", out=str(tmp_path / "whole"), checkpoint_steps=3, **options))
        monkeypatch.setattr(glocal.backbones.Backbone, "forward", forward)
    assert {4, 8, 16} <= set(patches)
    glocal.pretrain(resume=str(stopped), quiet=True, trust_code=True)
    weights = [torch.load(Run(path).checkpoint_file, weights_only=True)["method"] for path in (whole, stopped)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    assert whole.config()["patches"] == [4, 8, 16]
    assert whole.encoder()["extra"]["patches"] == [4, 8, 16]
    assert glocal.load(str(whole), trust_code=True).patch == 8  # the middle one


def test_patches_that_do_not_divide_every_crop_are_refused():
    encoder = build_backbone(FLEXI, image_size=64)
    check_fits(encoder, multi_crop(64, 1, 32), (4, 8, 16, 32))
    with pytest.raises(
        UsageError, match=r"--patches 24 does not divide the crops of 64 px; choose from 1, 2, 4, 8, 16, 32$"
    ):
        check_fits(encoder, multi_crop(64, 1, 32), (8, 24))
    with pytest.raises(UsageError, match="--patches 64 does not divide the crops of 32 px"):
        check_fits(encoder, multi_crop(64, 1, 32), (64,))
    with pytest.raises(UsageError, match="takes patches of 1 to 64 px, not of 96"):
        check_fits(encoder, multi_crop(192, 0, 96), (96,))
    with pytest.raises(UsageError, match="test_vit has cells of one size only, 16 px"):
        check_fits(build_backbone("test_vit", image_size=64), multi_crop(64, 1, 32), (8,))
