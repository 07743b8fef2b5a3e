"""What a backbone cannot train on is refused before any image is read, and what is refused would have died."""

from __future__ import annotations

import re
from functools import cache

import pytest
import torch

import glocal
from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.methods import check_fits
from glocal.views import Crop, Recipe, Support, multi_crop

REFUSED = [
    ("resmlp_12_224", 64, 32, "resmlp_12_224 takes images of one size only, not of 32 px; set --small-size 64, or"),
    ("mixer_s32_224", 64, 96, "one size only, not of 96 px; set --small-size 64, or --small-crops 0"),
    ("cait_xxs24_224", 64, 32, "one size only, not of 32 px; set --small-size 64, or --small-crops 0"),
    (
        "vit_tiny_patch16_224",
        64,
        40,
        r"40×40.*by patch size \(16\); set --small-size 32 or 48 or 64, or --small-crops 0",
    ),
    ("vit_tiny_patch16_224", 72, 32, r"72×72.*by patch size \(16\); set --image-size 64 or 80$"),
    ("eva02_tiny_patch14_224", 56, 48, r"48×48.*\(14\); set --small-size 42 or 56, or --small-crops 0"),
    ("convnext_atto", 64, 16, "convnext_atto.* 16×16.*; set --small-size 32 or 64, or --small-crops 0"),
    ("convnext_atto", 16, 16, "convnext_atto.* 16×16.*; set --image-size 32$"),
]
ALLOWED = [
    ("resmlp_12_224", 64, 64),
    ("vit_tiny_patch16_224", 64, 32),
    ("xcit_nano_12_p16_224", 64, 40),
    ("swin_tiny_patch4_window7_224", 64, 32),
    ("tiny:naflex", 64, 32),
    ("test_resnet", 63, 17),
    ("convnext_atto", 64, 40),
]


@cache
def build(name, image_size):
    """One for all tests; none of them looks at its weights."""
    torch.manual_seed(0)
    return build_backbone(name, image_size=image_size)


@pytest.mark.parametrize(("name", "image_size", "small", "message"), REFUSED)
def test_what_is_refused_would_die_and_what_is_advised_would_not(name, image_size, small, message):
    encoder = build(name, image_size)
    with pytest.raises(UsageError, match=message) as refused:
        check_fits(encoder, multi_crop(image_size, 2, small))
    assert str(refused.value).count("\n") == 0
    assert encoder.training  # as it was
    dying = image_size if "--image-size" in message else small
    with pytest.raises((UsageError, RuntimeError)):
        encoder(torch.zeros(2, 3, dying, dying))
    advised = re.search(r"--(image|small)-size ([\d or]+)", str(refused.value))
    for side in map(int, re.findall(r"\d+", advised[2])):
        encoder(torch.zeros(2, 3, side, side))


@pytest.mark.parametrize(("name", "image_size", "small"), ALLOWED)
def test_what_is_allowed_works(name, image_size, small):
    encoder = build(name, image_size)
    check_fits(encoder, multi_crop(image_size, 2, small))
    for size in (image_size, small):
        encoder(torch.zeros(2, 3, size, size)).pooled.sum().backward()


def test_crops_of_labelled_images_count():
    recipe = Recipe((Crop(64),), Support((Crop(40),), classes=2, images=1, labelled=1.0))
    with pytest.raises(UsageError, match="40×40"):
        check_fits(build("vit_tiny_patch16_224", 64), recipe)


@pytest.mark.parametrize(
    ("name", "image_size", "any_size", "drops_patches"),
    [
        ("resmlp_12_224", 64, False, False),
        ("vit_tiny_patch16_224", 64, True, True),
        ("vit_tiny_patch16_224", 72, True, True),
        ("xcit_nano_12_p16_224", 64, True, False),
        ("test_resnet", 32, True, False),
        ("bagnet17", 32, True, False),
    ],
)
def test_traits(name, image_size, any_size, drops_patches):
    traits = build(name, image_size).traits
    assert (traits.any_size, traits.drops_patches) == (any_size, drops_patches)


RUN = {
    "image_size": 32,
    "batch_size": 4,
    "workers": 0,
    "max_steps": 1,
    "precision": "32",
    "report": False,
    "quiet": True,
}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "vicregl", "backbone": "resmlp_12_224", "small_crops": 2, "small_size": 16}, "--small-crops 0"),
        ({"method": "msn", "backbone": "test_resnet"}, "patch_drop=0"),
        ({"method": "loca", "backbone": "test_resnet"}, "query_keep=1"),
        ({"method": "vicreg", "backbone": "test_vit", "image_size": 40}, "--image-size 32 or 48"),
    ],
)
def test_a_run_is_refused_before_an_image_is_read(tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("glocal.pipeline.start.ViewLoader", None)
    with pytest.raises(UsageError, match=message):
        glocal.pretrain("parts:n=8,size=40", out=str(tmp_path / "run"), **RUN | options)
    assert list(tmp_path.iterdir()) == []


def test_what_the_refusal_advises_trains(tmp_path):
    options = {"method": "vicregl", "backbone": "resmlp_12_224", "small_crops": 0, "matches": (2, 1)}
    widths = {"projector": (16, 16), "local_projector": (16, 16)}
    run = glocal.pretrain("parts:n=8,size=40", out=str(tmp_path / "run"), **RUN | options | widths)
    assert (run / "encoder.safetensors").exists()
