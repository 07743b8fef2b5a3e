"""What config.yaml says of options left open, against the rules of docs/methods.md."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch
import yaml

from glocal import pretrain
from glocal.config import PretrainConfig
from glocal.pipeline import prepare, start
from glocal.run import Run
from glocal.training import Machine, resolve


class Begun(Exception):
    """All is decided: training would be next."""


@pytest.fixture
def decide(tmp_path, monkeypatch) -> Callable[..., dict[str, Any]]:
    """A function from a number of images, and options, to config.yaml; nothing is trained."""

    def fit(*_: object, **__: object) -> None:
        raise Begun

    monkeypatch.setattr(start, "fit", fit)
    monkeypatch.setattr(start, "inventory", lambda source: "")  # of a million images it takes seconds
    fixed = {"method": "simclr", "backbone": "test_resnet", "image_size": 16, "quiet": True}
    fixed |= {"workers": 0, "cache": False, "compile": False, "threads": 1}

    def run(images: int, **options: Any) -> dict[str, Any]:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        with pytest.raises(Begun):
            pretrain(f"parts:n={images},size=16", out=str(tmp_path / "run"), **fixed | options)
        return yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())

    return run


@pytest.mark.parametrize(("images", "batch_size"), [(7, 2), (127, 8), (128, 16), (2047, 128), (2048, 256), (4096, 256)])
def test_an_epoch_has_at_least_eight_steps_of_at_most_256_images(decide, images, batch_size):
    assert decide(images)["batch_size"] == batch_size


@pytest.mark.parametrize(
    ("images", "epochs", "monitor_every"),
    [(40, 800, 40), (20_000, 800, 40), (30_000, 653, 32), (320_292, 200, 10), (1_281_167, 100, 5)],
)
def test_fewer_images_are_seen_more_often(decide, images, epochs, monitor_every):
    config = decide(images, batch_size=4)
    assert (config["epochs"], config["monitor_every"]) == (epochs, monitor_every)


@pytest.mark.parametrize(("images", "preset", "temperature"), [(199_999, "small", 0.2), (200_000, "paper", 0.1)])
def test_the_papers_own_options_are_for_200_000_images(decide, images, preset, temperature):
    config = decide(images, batch_size=4)
    assert (config["preset"], config["temperature"]) == (preset, temperature)


def test_what_was_asked_for_stays(decide):
    asked = {"preset": "paper", "batch_size": 6, "epochs": 7, "precision": "32", "projector": [8, 8]}
    config = decide(40, **asked)
    assert {name: config[name] for name in asked} == asked
    assert config["monitor_every"] == 1


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16-mixed"), (False, "32-true")])
def test_half_precision_where_the_processor_is_fast_at_it(decide, monkeypatch, fast, precision):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: fast, raising=False)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False, raising=False)
    assert decide(40, accelerator="cpu")["precision"] == precision


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="this system does not say which cores are ours")
@pytest.mark.parametrize(("cores", "workers"), [(1, 1), (3, 3), (20, 8)])
def test_a_worker_for_each_core_up_to_eight(decide, monkeypatch, cores, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    assert decide(40, workers=None)["workers"] == workers


@pytest.mark.parametrize(("cores", "devices", "workers"), [(1, 1, 1), (20, 1, 19), (64, 2, 31)])
def test_a_gpu_is_fed_by_all_cores_but_one(cores, devices, workers) -> None:
    machine = Machine(cores, 1, "bf16-mixed", cuda=True)
    assert resolve(PretrainConfig(devices=devices), range(999), machine)[0].config.workers == workers


@pytest.fixture
def measured(monkeypatch, tmp_path) -> list[bool]:
    """For which precisions it was measured where small maps pay; each measurement says something else."""
    asked: list[bool] = []

    def fastest_limits(*, bf16: bool) -> tuple[int, int]:
        asked.append(bf16)
        return (16 + len(asked), len(asked))

    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(prepare, "fastest_limits", fastest_limits)
    return asked


WIDE = {"backbone": "resnet18", "precision": "32", "accelerator": "cpu"}


def test_what_a_machine_measured_once_all_its_runs_use(decide, measured, monkeypatch, tmp_path):
    used = []
    plain = prepare.use_small_maps

    def use(method, limits):
        plain(method, limits)
        used.append(method.encoder.small_maps)

    monkeypatch.setattr(prepare, "use_small_maps", use)
    assert decide(40, **WIDE)["small_maps"] == decide(40, **WIDE)["small_maps"] == [17, 1]
    assert decide(40, **WIDE | {"precision": "bf16-mixed"})["small_maps"] == [18, 2]
    assert measured == [False, True]
    assert decide(40, **WIDE, small_maps=[4, 0])["small_maps"] == [4, 0]
    assert used == [(17, 1), (17, 1), (18, 2), (4, 0)]
    (tmp_path / "cache" / "small_maps.json").write_text("[")  # damaged: measured again
    assert decide(40, **WIDE)["small_maps"] == [19, 3]
    assert decide(40)["small_maps"] is None  # nothing that wide in it
    assert len(measured) == 3


@pytest.mark.parametrize(("precision", "limits"), [("32-true", [9, 9]), ("bf16-mixed", [49, 9])])
def test_a_run_from_before_it_was_measured_goes_on_with_the_constants(decide, tmp_path, precision, limits):
    decide(40)
    run = Run(tmp_path / "run")
    config = run.config() | {"precision": precision}
    del config["small_maps"]
    run.config_file.write_text(yaml.safe_dump(config))
    assert start.stored_config(run).small_maps == limits
