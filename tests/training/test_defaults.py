"""What is decided for the person who left it open."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from glocal import pretrain
from glocal.config import PretrainConfig
from glocal.methods import Optimization
from glocal.run import Run
from glocal.training import Machine, Resolved, resolve, this_machine
from glocal.training.defaults import _momentum, finer_stride
from glocal.training.rates import SHORT

MACHINE = Machine(cores=4, threads=3, precision="32-true")


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
    machine = replace(MACHINE, stride=stride)
    config = PretrainConfig(method="vicregl", image_size=size, output_stride=asked)
    resolved, notes = resolve(config, range(64), machine)
    assert resolved.config.output_stride == (asked or finer)
    assert any("cells to match" in note for note in notes) == (finer is not None and asked is None)
    assert finer_stride(size, stride, 0) is None
    refused, notes = resolve(config, range(64), replace(machine, finer_refused="it cannot dilate"))
    assert refused.config.output_stride == asked
    assert any("it cannot dilate" in note for note in notes) == (finer is not None and asked is None)


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
    return Run(run).config()


def test_any_architecture_that_can_dilate_gets_a_finer_map(tmp_path) -> None:
    assert short(tmp_path, "test_convnext", method="vicregl")["output_stride"] == 8


def test_one_that_cannot_keeps_its_map(tmp_path) -> None:
    assert short(tmp_path, "test_vit", method="vicregl")["output_stride"] is None


def test_a_method_that_matches_no_cells_keeps_its_map(tmp_path) -> None:
    assert short(tmp_path, "test_resnet", method="vicreg")["output_stride"] is None


def decided(spec: Optimization, steps: int, **given) -> Resolved:
    """What becomes of a method's own optimisation in a run of so many steps of 64 images."""
    config = PretrainConfig(method="simclr", **({"batch_size": 64, "epochs": 1} | given))
    return resolve(config, range(64 * steps), replace(MACHINE, published=spec))[0]


@pytest.mark.parametrize("optimizer", ["lars", "sgd", "adamw"])
def test_what_was_decided_gives_the_same_again(optimizer) -> None:
    spec = Optimization(optimizer, lr=0.2, weight_decay=1e-6, bias_lr_scale=0.024)
    first = decided(spec, 1000)
    again, notes = resolve(
        first.config, range(64_000), replace(MACHINE, published=spec, cores=64, precision="bf16-mixed")
    )
    assert again == first
    assert not [note for note in notes if "goes with" in note]
    # Barlow Twins' loss is a sum over dimensions: its biases, which LARS does not adapt, need their small rate
    assert first.optimization.bias_lr_scale == 0.024


@pytest.mark.parametrize(("steps", "momentum"), [(50, 0.9), (200, 0.95), (1000, 0.99), (100_000, 0.99)])
def test_a_teacher_forgets_its_first_weights_in_a_short_run(steps: int, momentum: float) -> None:
    assert _momentum(0.99, steps, []) == momentum
    left = math.prod(1 - (1 - momentum) * (1 + math.cos(math.pi * t / steps)) / 2 for t in range(steps))
    assert left < 0.09 if steps == 50 else left < 0.01


def test_only_the_option_that_a_method_names_is_lowered(monkeypatch) -> None:
    config = PretrainConfig(method="byol", batch_size=4, epochs=1)
    assert resolve(config, range(40), MACHINE)[0].config.options["momentum"] == 0.9
    monkeypatch.setattr("glocal.methods.BYOL.teacher_momentum", None)
    assert resolve(config, range(40), MACHINE)[0].config.options["momentum"] == 0.99


def test_the_momentum_that_was_asked_for_stays(tmp_path) -> None:
    assert short(tmp_path, "test_resnet", method="byol", momentum=0.999)["momentum"] == 0.999
    assert short(tmp_path / "open", "test_resnet", method="byol")["momentum"] == 0.9


@pytest.mark.parametrize(("steps", "lr"), [(4 * SHORT, 1e-3 / 4), (80 * SHORT, 1e-3 / 16), (2**10 * SHORT, 1e-3 / 16)])
def test_adamw_goes_with_the_root_of_the_batch_in_short_runs(steps: int, lr: float) -> None:
    spec = Optimization("adamw", lr=1e-3 / 4, weight_decay=0.04)
    assert decided(spec, steps).schedule.lr == pytest.approx(lr)  # published: 1e-3 at a batch of 1024


def test_the_rate_of_adamw_is_explained() -> None:
    machine = replace(MACHINE, published=Optimization("adamw", lr=1e-3, weight_decay=0.04))
    for steps, rule in ((4, "0.001 × 1024/256 × √(64/1024)"), (200 * SHORT, "0.001 × 64/256")):
        config = PretrainConfig(method="simclr", epochs=1, batch_size=64)
        assert any(note.endswith(rule) for note in resolve(config, range(64 * steps), machine)[1])


def test_the_batch_is_that_of_all_processes() -> None:
    spec = Optimization("adamw", lr=1e-3 / 4, weight_decay=0.04)
    assert decided(spec, 4 * SHORT, devices=4).schedule.lr == decided(spec, 4 * SHORT, batch_size=256).schedule.lr


@pytest.mark.parametrize(("steps", "optimizer"), [(4 * SHORT - 1, "adamw"), (4 * SHORT, "sgd")])
def test_short_runs_move_what_sgd_would_not(steps: int, optimizer: str) -> None:
    spec = Optimization("sgd", 0.05, 1e-5, 0.0, final_lr=1.0)
    found = decided(spec, steps)
    assert found.optimization.optimizer == found.config.optimizer == optimizer
    assert found.schedule.lr == pytest.approx(5e-4 if optimizer == "adamw" else 0.05 / 4)
    assert (found.optimization.final_lr, found.optimization.warmup_epochs) == (1.0, 0.0)  # constant, as published
    assert decided(spec, steps, optimizer="sgd").optimization.optimizer == "sgd"


def moved(images: int, batch: int = 256, lr: float = 0.3) -> tuple[float, Resolved]:
    """Σ lr·η/2, by how much LARS moves the weights in a default run on so many images, and what was decided."""
    spec = Optimization("lars", lr=lr, weight_decay=1e-6)
    config = PretrainConfig(method="byol", batch_size=batch)
    found = resolve(config, range(images), replace(MACHINE, published=spec))[0]
    assert found.schedule
    assert found.optimization
    return found.schedule.lr * found.optimization.trust_coefficient * found.steps / 2, found


@pytest.mark.parametrize(("images", "expected"), [(9_000, 84), (9_800, 90), (50_000, 90), (1_281_167, 90)])
def test_more_images_do_not_move_the_weights_less(images: int, expected: float) -> None:
    # a threshold at 30,000 steps gave 84, 4.6, 14.8 and 75
    assert moved(images)[0] == pytest.approx(expected, rel=0.01)


def test_a_run_as_long_as_the_papers_is_the_papers() -> None:
    spec = Optimization("lars", lr=0.3, weight_decay=1e-6)
    config = PretrainConfig(method="byol", epochs=300, preset="paper", batch_size=256)
    found = resolve(config, range(1_281_167), replace(MACHINE, published=spec))[0]
    assert found.optimization == spec  # Σ lr·η/2 = 225


@pytest.mark.parametrize("batch", [32, 1024])
@pytest.mark.parametrize(
    "spec", [Optimization("lars", 0.2, 1e-6), Optimization("lars", 0.45, 1e-6), Optimization("adamw", 5e-4, 0.05)]
)
def test_nothing_jumps_as_runs_grow(spec: Optimization, batch: int) -> None:
    lengths = [100 * 1.15**k for k in range(85)]  # in steps of 256, to 14 million
    before = None
    for length in lengths:
        steps = round(length * 256 / batch)
        config = PretrainConfig(method="simclr", preset="paper", batch_size=batch, epochs=steps)
        found = resolve(config, range(batch), replace(MACHINE, published=spec))[0]
        own = found.optimization
        assert own
        assert found.schedule
        now = found.schedule.lr, own.weight_decay, own.trust_coefficient, found.steps
        if before:
            for value, old in zip(now, before, strict=True):
                assert value / old == pytest.approx(1, abs=0.25)
            eta = (now[2], before[2]) if own.optimizer == "lars" else (1, 1)
            assert now[0] * eta[0] * now[3] >= before[0] * eta[1] * before[3] * (1 - 1e-9)
        before = now


def test_each_option_is_decided_by_itself() -> None:
    spec = Optimization("lars", lr=0.2, weight_decay=1e-6)
    found = decided(spec, 1000, trust_coefficient=0.005).optimization
    assert found
    assert (found.trust_coefficient, found.weight_decay) == (0.005, 1e-4)


def test_a_preset_is_that_of_the_backbones_family() -> None:
    def options(method: str, family: str | None) -> tuple[dict, float]:
        config = resolve(PretrainConfig(method=method, preset="paper"), range(99), replace(MACHINE, family=family))[
            0
        ].config
        return dict(config.options), config.drop_path

    dino, drop_path = options("dino", "resnet")
    assert (dino["scale"], dino["small_scale"], dino["head_norm"], drop_path) == ((0.14, 1.0), (0.05, 0.14), "batch", 0)
    dino, drop_path = options("dino", "vit")
    assert (dino["scale"], dino["small_scale"], dino["head_norm"], drop_path) == ((0.4, 1.0), (0.05, 0.4), "none", 0.1)
    moco = options("mocov3", "vit")[0]
    assert (moco["temperature"], moco["projector"], moco["scale"]) == (0.2, (4096, 4096, 256), (0.08, 1.0))
    assert options("mocov3", "resnet")[0]["temperature"] == 1.0
    assert options("loca", "vit")[1] == 0.1
    assert options("vicregl", "convnext")[0]["small_crops"] == 6


def test_what_a_preset_changes_is_said_line_by_line() -> None:
    notes = resolve(PretrainConfig(method="swav", preset="small", batch_size=64), range(999), MACHINE)[1]
    assert "epsilon 0.02: preset small; in the paper 0.05" in notes
    assert "small-crops 0: preset small; in the paper 6" in notes
    assert not [
        note
        for note in resolve(PretrainConfig(method="swav", preset="paper"), range(999), MACHINE)[1]
        if "in the paper" in note
    ]


def test_what_is_said_does_not_contradict_itself() -> None:
    spec = Optimization("adamw", lr=1e-3, weight_decay=0.04)
    config = PretrainConfig(method="byol", max_steps=36, batch_size=16)
    found, notes = resolve(config, range(100), replace(MACHINE, published=spec))
    assert found.config.epochs == 6
    assert "epochs 6: 36 steps" in notes
    assert found.config.trust_coefficient is None
    assert not [note for note in notes if note.startswith("trust")]


def test_what_the_number_of_images_decides() -> None:
    small, large = (resolve(PretrainConfig(), range(n), MACHINE)[0].config for n in (1_600, 1_281_167))
    assert (small.preset, small.batch_size, small.epochs, small.monitor_every) == ("small", 128, 800, 40)
    assert (large.preset, large.batch_size, large.epochs, large.monitor_every) == ("paper", 256, 100, 5)
    assert (small.workers, small.precision, small.threads) == (4, "32-true", 3)
    assert (
        resolve(PretrainConfig(devices=2), range(1_600), replace(MACHINE, precision="bf16-mixed"))[0].config.batch_size
        == 64
    )


def test_what_was_not_measured_stays_open_and_what_was_is_taken() -> None:
    assert resolve(PretrainConfig(), range(99), MACHINE)[0].config.cache is None
    machine = replace(MACHINE, cache=(True, "it fits"), compile=(False, "too slow"))
    resolved, notes = resolve(PretrainConfig(), range(99), machine)
    assert (resolved.config.cache, resolved.config.compile) == (True, False)
    assert "cache True: it fits" in notes
    assert resolve(PretrainConfig(epochs=2), range(99), machine)[0].config.cache is False  # no later epochs


@pytest.mark.parametrize("instructions", [False, True])
def test_bf16_is_chosen_where_the_processor_has_instructions_for_it(monkeypatch, instructions) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: instructions, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    fast = "bf16-mixed" if instructions else "32-true"
    assert this_machine("auto").precision == this_machine("cpu").precision == fast
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert this_machine("auto").precision == "32-true"


@pytest.mark.parametrize(("instructions", "precision"), [(True, "bf16-mixed"), (False, "16-mixed")])
def test_gpus_that_emulate_bf16_train_in_half_precision(monkeypatch, instructions, precision) -> None:
    """T4, V100 and RTX 20 say that they support bfloat16, by emulation."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or instructions
    )
    assert this_machine("auto").precision == this_machine("cuda").precision == precision
    assert this_machine("auto").cuda
    assert this_machine("cuda").cuda
    assert not this_machine("cpu").cuda


def test_wheels_without_a_question_about_instructions_are_not_asked_it(monkeypatch) -> None:
    """As those for Apple Silicon."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert this_machine("auto").precision == "32-true"


GENTLE = {"lars": 5e-4, "adamw": 2e-4}


@pytest.mark.parametrize("optimizer", GENTLE)
def test_weights_that_see_already_are_changed_with_care(optimizer) -> None:
    spec = Optimization(optimizer, lr=2e-4, weight_decay=0.01, frozen={"head": 1.0})
    run = decided(spec, 100, pretrained="weights.pth", epochs=200)
    config, usual = run.config, decided(spec, 100, epochs=200, optimizer="adamw")
    assert (config.gentle, config.guard, config.layer_decay, config.optimizer) == (True, True, 0.8, "adamw")
    assert config.lr == pytest.approx(usual.config.lr / 10)
    assert run.schedule.lr * run.optimization.lr_of[""] == pytest.approx(usual.schedule.lr)  # the heads'
    assert run.optimization.lr_of["encoder."] == 1.0
    assert config.warmup_epochs == 20
    assert run.optimization.frozen == {"head": 1.0, "encoder.": 60.0}
    assert run.optimization.early == 0.3
    assert run.optimization.layer_decay == 0.8
    again, notes = resolve(config, range(6400), replace(MACHINE, published=spec))
    assert again == run
    assert not [note for note in notes if "gentle" in note or "lr" in note]


def test_from_scratch_nothing_is_gentle() -> None:
    spec = Optimization("lars", lr=0.3, weight_decay=1e-6)
    run = decided(spec, 100)
    assert (run.config.gentle, run.config.guard, run.config.layer_decay) == (False, False, 1.0)
    assert (run.optimization.lr_of, run.optimization.frozen, run.optimization.layer_decay) == ({}, {}, 1.0)
    plain = decided(spec, 100, pretrained="weights.pth", gentle=False, guard=False)
    assert (plain.optimization, plain.schedule) == (run.optimization, run.schedule)


def test_what_is_given_wins_over_care() -> None:
    spec = Optimization("lars", lr=0.3, weight_decay=1e-6)
    given = {"lr": 0.7, "layer_decay": 0.3, "warmup_epochs": 1.0, "optimizer": "sgd", "guard": False}
    run = decided(spec, 100, pretrained=True, **given)
    assert {name: getattr(run.config, name) for name in given} == given
    assert (run.schedule.lr, run.optimization.layer_decay, run.optimization.optimizer) == (0.7, 0.3, "sgd")
    careful = decided(spec, 100, pretrained=True, lr=1e-4)
    assert (careful.config.optimizer, careful.schedule.lr) == ("adamw", 1e-4)  # gentle means AdamW
    assert decided(spec, 100, lr=0.7).config.optimizer == "lars"  # whose rate it is


def test_a_teacher_that_starts_from_good_weights_need_not_forget_them() -> None:
    momentum = lambda **given: resolve(
        PretrainConfig(method="byol", batch_size=64, epochs=1, **given), range(6400), MACHINE
    )[0].config.options["momentum"]
    assert (momentum(), momentum(pretrained=True), momentum(pretrained=True, gentle=False)) == (0.9, 0.99, 0.9)
