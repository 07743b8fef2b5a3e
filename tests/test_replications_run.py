"""Every replication runs from its data to its verdict, two steps of each method on a handful of drawn images."""

from __future__ import annotations

import importlib
from functools import partial

import pytest
import torch
from PIL import Image

from glocal.backbones import build_backbone
from glocal.data import PartsWorld
from replications import co_ssl, collapse, dcl, multicrop, protocol
from replications.protocol import Arm, run_arm

NAMES = ("collapse", "dcl", "deepcluster", "directclr", "loca", "low_shot", "multicrop")
TINY = {"max_steps": 2, "batch_size": 8, "precision": "32-true"}
ONE_PROBE = {"lrs": (0.1,), "wds": (0.0,)}
QUICK = {"linear": {"epochs": 1, **ONE_PROBE}, "segment": {"steps": 2, "lrs": (0.1,)}, "knn": {}, "rank": {}}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data sets called as the real ones, of 12 training and 8 test images each."""
    out = tmp_path_factory.mktemp("data")
    for split, n in (("train", 12), ("test", 8)):
        world = PartsWorld(n, 48, split=split, classes=4)
        for i in range(n):
            image, mask = Image.fromarray(world.sample(i).image), Image.fromarray(world.sample(i).mask)
            for path, saved in (
                (f"clothing/{split}/{i % 4}/{i}.png", image),
                *((f"{name}/{split}/images/{i}.png", image) for name in ("pets", "camvid")),
                *((f"{name}/{split}/masks/{i}.png", mask) for name in ("pets", "camvid")),
            ):
                (out / path).parent.mkdir(parents=True, exist_ok=True)
                saved.save(out / path)
    return out


def tiny(module, arm: Arm) -> Arm:
    """The arm on a network and crops that take no time."""
    options = {**module.COMMON, **arm.options, **TINY}
    transformer = options["backbone"] == "test_vit"
    small = {"small_size": 32} if "small_size" in options else {}
    more = {"clusters": 4, "components": 2} if "clusters" in options else {}
    size = {"image_size": 64 if transformer else 32, "backbone": "test_vit" if transformer else "test_resnet"}
    return Arm(arm.name, {**options, **size, **small, **more})


@pytest.mark.parametrize("name", NAMES)
def test_each_method_of_a_replication_runs(name, data, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path / "results")
    module = importlib.import_module(f"replications.{name}")
    small = {"WORLD": "parts:n=16,size=48", "CLUSTERS": 4, "COMPONENTS": 2, "LRS": (0.1,), "WDS": (0.0,)}
    for option, value in small.items():
        if hasattr(module, option):
            monkeypatch.setattr(module, option, value)
    if name == "collapse":
        monkeypatch.setattr(module, "SETS", (module.WORLD,))
        monkeypatch.setattr(module, "SCORES", {"knn": protocol.Score("kNN", module.WORLD, "knn")})
    evaluate = protocol.glocal.evaluate
    quick = lambda *args, tasks, **more: evaluate(*args, tasks=tasks, task_options={k: QUICK[k] for k in tasks}, **more)
    monkeypatch.setattr(protocol.glocal, "evaluate", quick)
    run = getattr(module, "run", partial(run_arm, module))
    assert module.table() == "Not run yet: no verdict."
    seen = set()
    for arm in module.ARMS:
        what = arm.options.get("method"), arm.options.get("backbone")
        if what not in seen or name == "collapse":
            result = protocol.keep(name, arm, 0, partial(run, tiny(module, arm), 0, data, tmp_path / "runs"))
            seen.add(what)
        else:  # the same method with other numbers
            protocol.keep(name, arm, 0, lambda result=result: {"scores": result["scores"]})
        for seed in (1, 2):
            protocol.keep(name, arm, seed, lambda result=result: {"scores": result["scores"]})
    assert "Verdict: **" in module.table()


def keep_scores(module, scores) -> None:
    """Results of three seeds, as `scores(arm, seed)` says."""
    for arm in module.ARMS:
        for seed in range(3):
            protocol.keep(module.NAME, arm, seed, lambda arm=arm, seed=seed: {"scores": scores(arm.name, seed)})


@pytest.mark.parametrize(
    ("at_16", "at_128", "verdict"), [(0.1, 0.0, "reproduced"), (0.0, 0.1, "not reproduced"), (0.1, 0.1, "undecided")]
)
def test_dcl_is_judged_by_how_its_gain_grows(tmp_path, monkeypatch, at_16, at_128, verdict):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    gain = {"dcl-16": at_16, "dcl-128": at_128}
    keep_scores(dcl, lambda arm, seed: {"knn": 0.3, "linear": 0.4 + gain.get(arm, 0) + seed * 0.01 * (arm == "dcl-16")})
    assert f"Verdict: **{verdict}**" in dcl.table()


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        ((0.1, 0.1), "reproduced"),
        ((0.1, 0.0), "undecided"),
        ((0.0, 0.0), "undecided"),
        ((0.1, -0.1), "not reproduced"),
    ],
)
def test_all_that_is_claimed_is_judged_together(tmp_path, monkeypatch, gains, verdict):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    linear = {"multi": 0.5, "two": 0.5 - gains[0], "two-longer": 0.5 - gains[1]}
    keep_scores(
        multicrop, lambda arm, seed: {"knn": 0.3, "linear": linear.get(arm, 0) + 0.01 * seed * (arm == "multi")}
    )
    found = multicrop.table()
    assert f"Verdict: **{verdict}**" in found
    (tmp_path / "multicrop" / "two-1.json").unlink()
    (tmp_path / "multicrop" / "two-2.json").unlink()
    assert "No verdict yet." in multicrop.table()


def test_a_piece_prevents_collapse_if_it_alone_makes_the_difference(tmp_path, monkeypatch):
    assert collapse.verdict([1, 1, 1], [0, 0, 0]) == "reproduced"
    assert collapse.verdict([1, 0, 1], [0, 0, 0]) == collapse.verdict([1, 1, 1], [0, 0, 1]) == "undecided"
    assert collapse.verdict([0, 0, 0], [0, 0, 0]) == "not reproduced"
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    other = {"rank": 9.0, "spread": 0.5, "deviation": 0.5, "knn": 0.4}
    keep_scores(collapse, lambda arm, seed: {**other, "collapsed": float("-without" in arm)})
    assert "Verdict: **reproduced**" in collapse.table()
    assert collapse.PIECES["simsiam-without-stop"] == "simsiam"


def test_without_its_stop_gradient_simsiam_moves_its_targets():
    for cls, moves in ((collapse.SimSiam, False), (collapse.NoStopGradient, True)):
        torch.manual_seed(0)
        method = cls(build_backbone("test_resnet"), image_size=32, projector=(8, 4), predictor=(8, 4))
        targets = method.target(method.heads, [torch.randn(4, method.encoder.dim)])
        assert targets[0].requires_grad == moves


def test_co_ssl_runs_and_is_judged_claim_by_claim(data, tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path / "results")
    quick = {
        **QUICK,
        "robustness": {"severities": [1, 3, 5], "corruptions": ["brightness"], "images": 4},
        "internal": {"shares": [0.5], "images": 4},
        "attack": {"radii": [0.5], "steps": 1, "images": 4},
        "redundancy": {"images": 4},
    }
    monkeypatch.setattr(co_ssl, "TASKS", {task: quick[task] for task in co_ssl.TASKS})
    evaluate = co_ssl.glocal.evaluate
    chosen = lambda *args, tasks, task_options, **more: evaluate(
        *args, tasks=tasks, task_options={task: quick[task] for task in tasks}, **more
    )
    monkeypatch.setattr(co_ssl.glocal, "evaluate", chosen)
    arm = next(arm for arm in co_ssl.ARMS if arm.name == "co-byol")
    short = Arm(arm.name, {**arm.options, **TINY, "backbone": "test_resnet", "image_size": 64})
    monkeypatch.setattr(co_ssl, "WHOLE", [short])
    result = co_ssl.run(short, 0, data, tmp_path / "runs")
    assert result["scores"].keys() == co_ssl.SCORES.keys()
    linear = {"byol": 0.3, "co-byol": 0.4, "byol-time": 0.5, "byol-large-crops": 0.35, "co-byol-large-crops": 0.4}
    linear |= {"co-byol-rf195": 0.4, "co-byol-rf195-large-crops": 0.3}
    for arm in co_ssl.ARMS:
        for seed in range(3):
            scores = {**result["scores"], "linear": linear.get(arm.name, 0.2) + 0.01 * seed * (arm.name == "byol")}
            protocol.keep("co_ssl", arm, seed, lambda scores=scores: {"scores": scores, "found": result["found"]})
    said = {line.split(" | ")[0].removeprefix("| "): line for line in co_ssl.table().splitlines()}
    assert said["more accurate at equal epochs"].endswith("| reproduced |")
    assert said["more accurate at equal time"].endswith("| not reproduced |")
    assert said["more accurate under PGD (added)"].endswith("| undecided |")
    assert "premise not met" in said["bears large training crops better than BYOL"]  # they did it good
    assert said["bears them the better, the smaller the receptive field"].endswith("| reproduced |")
    co_ssl.picture(tmp_path / "curve.svg")
    assert "co-byol" in (tmp_path / "curve.svg").read_text()
