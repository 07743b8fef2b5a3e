"""Every benchmark runs, small; what it returns has the shape that the page reads; and what it compares agrees."""

from __future__ import annotations

import copy
import json
import math
import os
import time
from types import SimpleNamespace

import pytest
import torch

from benchmarks import (
    __main__,
    backbones,
    environment,
    evaluation,
    generation,
    growth,
    loader,
    losses,
    masks,
    measure,
    packing,
    page,
    peers,
    pretrain,
    profile,
    quality,
    search,
    sequences,
)
from benchmarks.cases import CASES
from benchmarks.photos import photograph, photos
from glocal.data import open_source
from processes import run


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten small photographs."""
    return photos(tmp_path_factory.mktemp("benchmarks") / "photos", count=10, size=(80, 60))


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Where the tests leave what they measured, for the page."""
    return tmp_path_factory.mktemp("results")


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("GLOCAL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def keep(results, name, measured):
    """As `python -m benchmarks` would; whatever JSON cannot say, or no number at all, fails here."""
    kept = {"benchmark": name, "machine": environment.machine(), "seconds": 1, "measured": measured | {"photos": "few"}}
    path = results / environment.machine_name(kept["machine"]) / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(kept, allow_nan=False))


def test_losses_compute_what_lightly_computes(results):
    measured = losses.measure("smoke")
    keep(results, "losses", measured)
    assert [case["views"] for case in measured["cases"]] == [2, 3, 2]
    for case in measured["cases"]:
        assert case["relative_difference"]["value"] < 1e-5
        assert case["relative_difference"]["gradient"] < 1e-4
        assert min(case["peak_bytes"].values()) > 0
        assert case["times_faster"] > 0


def test_loader(results, folder):
    measured = loader.measure("smoke", folder)
    keep(results, "loader", measured)
    (case,) = measured["cases"]
    assert all(arm["median"] > 0 for arm in case["milliseconds_per_image"].values())
    assert set(case["times_lightly"]) <= set(case["milliseconds_per_image"])


def test_evaluation_agrees_with_peers(results):
    measured = evaluation.measure("smoke")
    keep(results, "evaluation", measured)
    assert measured["knn"][0]["same_predictions"] == 1
    assert measured["linear"][0]["largest_difference_of_top1"] == 0
    assert 0.4 < measured["linear"][0]["best_top1"]["glocal"] < 1  # else agreement would say little


def test_search_finds_what_the_bare_product_finds(results, folder):
    measured = search.measure("smoke", folder)
    keep(results, "search", measured)
    assert measured["search"]["same_neighbours"] == 1
    assert measured["index"]["images"] == 10
    assert min(measured["search"]["times_bare"], measured["index"]["of_embed"], measured["index"]["again"]) > 0


def test_backbones_are_timed_side_by_side(results):
    measured = backbones.measure("smoke")
    keep(results, "backbones", measured)
    assert measured["tokens"]["times_more"].keys() == {"xca", "attention"}
    assert [case["patch"] for case in measured["steps"]] == [8, 16]
    assert measured["curve"]["times_finest"]["8"] == 1


def test_sequences_are_solved_alike_and_clips_are_the_same_photographs(results, folder, tmp_path):
    measured = sequences.measure("smoke", folder)
    keep(results, "sequences", measured)
    assert all(case["difference"] < 1e-9 for case in measured["phases"])
    sequences.as_videos(folder, tmp_path)
    pixels = lambda data: sorted(open_source(data).open(i).decode(1.0).tobytes() for i in range(10))
    assert pixels(f"clips:{tmp_path}") == pixels(str(folder))


def test_generation_is_timed_side_by_side(results):
    measured = generation.measure("smoke")
    keep(results, "generation", measured)
    assert measured["distances"]["times_features"].keys() == {"with FID", "with all scores"}
    assert measured["step"]["times_network"] > 0


@pytest.mark.slow
def test_packing(results, folder):
    measured = packing.measure("smoke", folder)
    keep(results, "packing", measured)
    assert set(measured["images_per_second"]) == {"packed", "padded", "squares"}
    assert all(0 <= share < 1 for share in measured["waste"].values())


def test_growth(results, folder, monkeypatch):
    forked = lambda command, **_: run(*command[3:], check=False)  # a new interpreter takes five seconds
    monkeypatch.setattr(growth, "subprocess", SimpleNamespace(run=forked))
    measured = growth.measure("smoke", folder)
    keep(results, "growth", measured)
    two, three = measured["loss_by_views"]
    assert three["input_bytes"] > two["input_bytes"]
    assert measured["loader_by_workers"][0]["images_per_second"]["median"] > 0
    assert measured["training_by_processes"][0]["images_per_second"] > 0


@pytest.mark.slow
def test_pretrain(results, folder):
    measured = pretrain.measure("smoke", folder)
    keep(results, "pretrain", measured)
    assert [case["method"] for case in measured["cases"]] == ["vicreg", "vicregl"]
    for case in measured["cases"]:
        assert case["images_per_second"].keys() == pretrain.ARMS.keys() - {"glocal, compiled"}
        rates = {name: arm["median"] for name, arm in case["images_per_second"].items()}
        assert math.isclose(case["times_lightly"]["glocal"], rates["glocal"] / rates["lightly"])
        assert math.isclose(case["efficiency"]["glocal"], rates["glocal"] / rates["resident"])


def test_masks(results):
    measured = masks.measure("smoke")
    keep(results, "masks", measured)
    (case,) = measured["cases"]
    assert set(case["seconds"]) == {"plain", "scores", "pruned"}
    assert set(case["times_plain"]) == {"scores", "pruned"}


def test_profile_accounts_for_the_whole_step(results, folder):
    measured = profile.measure("smoke", folder)
    keep(results, "profile", measured)
    (case,) = measured["cases"]
    parts = case["core_milliseconds"]
    assert {*profile.WORK, "loader", "appearance", "loss", "loss, backward"} <= parts.keys()
    assert all(spent >= 0 for spent in parts.values())
    assert 0 < case["share_of_work"] < 1


def test_page_is_made_of_whatever_there_is_on_each_machine(results, tmp_path):
    # after the tests above, in file order; of nothing where they were left out
    found = {path.stem for path in results.glob("*/*.json")}
    text = page.write_page(results, tmp_path).read_text()
    for name in ("losses", "growth", "profile", "pretrain"):
        assert len(list((tmp_path / "figures").glob(f"{name}-*.svg"))) == (name in found)
    other = tmp_path / "other"
    for machine in ("intel-1", "amd-2"):
        case = {
            "batch": 2,
            "cells": 7,
            "local": 8,
            "whole": 9,
            "target": 3,
            "times_faster": 2 + (machine == "amd-2") * 2,
        }
        numbers = {name: {"median": 1} for name in ("glocal", "lightly")}
        case |= {"times_less_memory": 2, "seconds": numbers, "peak_bytes": dict.fromkeys(numbers, 1)}
        case |= {"relative_difference": {"value": 0, "gradient": 0}}
        (other / machine).mkdir(parents=True)
        kept = {"machine": environment.machine() | {"gpu": machine}, "seconds": 1}
        measured = {"cases": [case], "matches": [2, 2]}
        (other / machine / "losses.json").write_text(json.dumps(kept | {"measured": measured}))
    text = page.write_page(other, tmp_path).read_text()
    assert "| Target | Wanted | amd-2 | intel-1 |" in text
    assert "| loss, B 2, 7×7, local 8-d, global 9-d | ≥ 3× lightly | 4× | **2×** |" in text
    assert text.index("# amd-2") < text.index("# intel-1")
    (tmp_path / "none").mkdir()
    assert "Nothing has been measured yet" in page.write_page(tmp_path / "none", tmp_path / "empty").read_text()


def test_machines_are_told_apart_by_maker_family_and_model():
    intel = {"gpu": None, "cpu": "Intel(R) Xeon(R) Processor @ 2.50GHz (family 6, model 85)"}
    amd = {"gpu": None, "cpu": "AMD EPYC 7B13 (family 25, model 1)"}
    names = [environment.machine_name(about) for about in (intel, amd, {"gpu": "NVIDIA H200", "cpu": "any"})]
    assert names == ["intel-6-85", "amd-25-1", "nvidia-h200"]


def test_both_libraries_are_told_the_same():
    for case in CASES["full"]:
        lightly, ours = peers.VICReg, pretrain.method_class(case.method)
        assert ours.__name__.lower() == case.method
        if case.backbone == "resnet18":
            model = (lightly if case.method == "vicreg" else peers.VICRegL)(case)
            method = ours(pretrain.build_backbone("resnet18", output_stride=case.stride), image_size=96, **case.options)
            assert method.encoder(torch.zeros(2, 3, 96, 96)).grid == (case.cells, case.cells)
            count = lambda module: sum(p.numel() for p in module.parameters() if p.ndim > 1)
            assert count(model) == count(method)


def test_interleaved_turns_alternate():
    calls = []
    arms = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    times = measure.interleaved(arms, rounds=3)
    assert "".join(calls) == "ab" + "abbaab"
    assert [len(each) for each in times.values()] == [3, 3]
    assert measure.ratio([2, 9, 4], [1, 3, 4]) == 2


def test_peak_memory_is_what_is_held_at_once():
    def work():
        a = torch.zeros(1000)
        b = a + 1
        del a
        return b * 2

    if measure.DEVICE.type == "cpu":
        assert 8000 <= measure.peak_memory(work) < 8100


def test_stopwatch_leaves_the_warm_up_out(monkeypatch):
    clock = iter([0, 100, 200, 300, 301, 302, 303])
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    watch = pretrain.Stopwatch(2.5, workers=1)
    assert [watch() for _ in range(7)] == [False] * 6 + [True]
    assert watch.rate(10) == 10


def test_photographs_are_the_same_everywhere():
    image = photograph(3, (50, 40))
    assert image.size == (50, 40)
    assert image.tobytes() == photograph(3, (50, 40)).tobytes() != photograph(4, (50, 40)).tobytes()


def test_command_line_refuses_unknown_names(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["benchmarks", "speed"])
    with pytest.raises(SystemExit):
        __main__.main()
    assert "no benchmark named speed" in capsys.readouterr().err


def test_missing_peers_are_installed_in_an_environment_of_their_own(monkeypatch, tmp_path):
    monkeypatch.setitem(environment.PEERS, "lightly", "0.0.1")
    monkeypatch.setattr(environment, "ENVIRONMENT", tmp_path / "venv")
    commands = []

    def run(command, check):
        commands.append(command)
        (tmp_path / "venv" / "lib" / "python3" / "site-packages").mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(os, "execv", lambda python, command: commands.append(command))
    environment.enter()
    assert commands[0][1:3] == ["-m", "venv"]
    assert "lightly==0.0.1" in commands[1]
    assert commands[2][:3] == [str(tmp_path / "venv" / "bin" / "python"), "-m", "benchmarks"]


def test_time_to_quality_goes_on_where_it_was_cut_off(tmp_path, monkeypatch):
    runs, kept = [], []

    def isolated(function, library, recipe, folder, seed, steps, every):
        runs.append((library, recipe, seed))
        return [{"step": steps, "seconds": 1.0 * len(runs), "top1": 0.9}]

    monkeypatch.setattr(quality, "isolated", isolated)
    whole = quality.measure("full", tmp_path, keep=lambda so_far: kept.append(copy.deepcopy(so_far)))
    first = [*runs]
    runs.clear()
    again = quality.measure("full", tmp_path, before=kept[7])
    assert runs == first[8:]
    assert {arm: len(curves) for arm, curves in again["curves"].items()} == dict.fromkeys(whole["curves"], 3)
    runs.clear()
    quality.measure("full", tmp_path, before=kept[7] | {"batch": 1})  # another protocol
    assert runs == first


def test_time_to_quality_is_where_a_curve_crosses_the_mark(results, tmp_path):
    curve = [{"step": 1, "seconds": 10.0, "top1": 0.2}, {"step": 2, "seconds": 20.0, "top1": 0.4}]
    assert page.reached(curve, 0.1) == 5
    assert page.reached(curve, 0.3) == 15
    assert page.reached(curve, 0.5) == math.inf
    curves = {"glocal vicreg": [curve], "lightly SimCLR": [curve]}
    measured = {"mark": 0.3, "steps": 2, "batch": 128, "curves": curves, "pilot": {}, "times_faster": 1.0}
    keep(tmp_path, "quality", measured)
    text = page.write_page(tmp_path, tmp_path).read_text()
    assert "| lightly SimCLR, seeds 0, 1, 2 | 0.25 | 0.400 |" in text
    assert "| time to quality, CIFAR-10 | ≤ ½ of lightly's | **1×** |" in text
