"""What is decided for the person who left it open."""

from __future__ import annotations

import pytest

from glocal import pretrain
from glocal.methods import Optimization
from glocal.training.plan import Plan, decide_optimization, finer_stride
from glocal.training.run import read_config


@pytest.mark.parametrize(
    ("size", "stride", "asked", "finer"),
    [
        (224, 32, None, None),  # 7×7: as published
        (96, 32, None, 16),  # 3×3 → 6×6
        (64, 32, None, 8),  # 2×2 → 8×8; 16 would leave 4×4
        (32, 32, None, 8),  # the finest there is
        (96, 16, None, None),
        (32, 8, None, None),  # already the finest
        (96, 32, 32, None),  # the person's word
    ],
)
def test_maps_are_refined_until_they_have_enough_cells(
    size: int, stride: int, asked: int | None, finer: int | None
) -> None:
    plan = Plan({"image_size": size, "output_stride": asked})
    assert finer_stride(plan, stride, 6) == finer
    assert finer_stride(plan, stride, 0) is None


def short(tmp_path, backbone: str, **options):
    run = pretrain(
        "parts:n=8,size=64",
        backbone=backbone,
        image_size=64,
        batch_size=4,
        max_steps=1,
        epochs=1,
        workers=0,
        report=False,
        quiet=True,
        out=str(tmp_path / "run"),
        **options,
    )
    return read_config(run)


def test_any_architecture_that_can_dilate_gets_a_finer_map(tmp_path) -> None:
    assert short(tmp_path, "test_convnext", method="vicregl")["output_stride"] == 8


def test_one_that_cannot_keeps_its_map(tmp_path) -> None:
    assert short(tmp_path, "test_vit", method="vicregl")["output_stride"] is None


def test_a_method_that_matches_no_cells_keeps_its_map(tmp_path) -> None:
    assert short(tmp_path, "test_resnet", method="vicreg")["output_stride"] is None


def test_what_was_decided_gives_the_same_optimization_again() -> None:
    spec = Optimization("lars", lr=0.2, weight_decay=1e-6, one_dim_lr=0.024)
    names = ("optimizer", "lr", "weight_decay", "warmup_epochs", "trust")
    plan = Plan({"batch_size": 64, **dict.fromkeys(names)})
    first = decide_optimization(plan, spec, steps=1000, processes=1)
    assert decide_optimization(Plan(dict(plan.config)), spec, steps=1000, processes=1) == first
    # Barlow Twins' loss is a sum over dimensions: its biases, which LARS does not adapt, need their small rate
    assert first.one_dim_lr == 0.024
