"""What is decided for the person who left it open."""

from __future__ import annotations

import math

import pytest

from glocal import pretrain
from glocal.methods import Optimization
from glocal.training.plan import SHORT_RUN, Plan, decide_momentum, decide_optimization, finer_stride
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


def open_plan() -> Plan:
    return Plan(
        {"batch_size": 64, **dict.fromkeys(("optimizer", "lr", "weight_decay", "warmup_epochs", "trust_coefficient"))}
    )


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_what_was_decided_gives_the_same_optimization_again(optimizer) -> None:
    spec = Optimization(optimizer, lr=0.2, weight_decay=1e-6, bias_lr_scale=0.024)
    plan = open_plan()
    first = decide_optimization(plan, spec, steps=1000, processes=1)
    assert decide_optimization(Plan(dict(plan.config)), spec, steps=1000, processes=1) == first
    # Barlow Twins' loss is a sum over dimensions: its biases, which LARS does not adapt, need their small rate
    assert first.bias_lr_scale == 0.024


@pytest.mark.parametrize(("steps", "momentum"), [(50, 0.9), (200, 0.95), (1000, 0.99), (100_000, 0.99)])
def test_a_teacher_forgets_its_first_weights_in_a_short_run(steps: int, momentum: float) -> None:
    plan = Plan({"momentum": 0.99})
    decide_momentum(plan, steps)
    assert plan.config["momentum"] == momentum
    left = math.prod(1 - (1 - momentum) * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps))
    assert left < 0.09 if steps == 50 else left < 0.01
    decide_momentum(without := Plan({}), steps)
    assert without.config == {}


def test_the_momentum_that_was_asked_for_stays(tmp_path) -> None:
    assert short(tmp_path, "test_resnet", method="byol", momentum=0.999)["momentum"] == 0.999
    assert short(tmp_path / "open", "test_resnet", method="byol")["momentum"] == 0.9


@pytest.mark.parametrize(("steps", "lr"), [(SHORT_RUN - 1, 1e-3 / 4), (SHORT_RUN, 1e-3 / 16)])
def test_adamw_goes_with_the_root_of_the_batch_in_short_runs(steps: int, lr: float) -> None:
    plan = open_plan()
    decide_optimization(plan, Optimization("adamw", lr=1e-3 / 4, weight_decay=0.04), steps, processes=1)
    assert plan.config["lr"] == pytest.approx(lr)  # published: 1e-3 at a batch of 1024


@pytest.mark.parametrize(("steps", "optimizer"), [(SHORT_RUN - 1, "adamw"), (SHORT_RUN, "sgd")])
def test_short_runs_move_what_sgd_would_not(steps: int, optimizer: str) -> None:
    plan = open_plan()
    spec = decide_optimization(plan, Optimization("sgd", 0.05, 1e-5, 0.0, final_lr=1.0), steps, processes=1)
    assert spec.optimizer == plan.config["optimizer"] == optimizer
    assert plan.config["lr"] == pytest.approx(5e-4 if optimizer == "adamw" else 0.05 / 4)
    assert (spec.final_lr, spec.warmup_epochs) == (1.0, 0.0)  # constant, as published
    asked = open_plan()
    asked.config["optimizer"] = "sgd"
    assert decide_optimization(asked, spec, steps, processes=1).optimizer == "sgd"
