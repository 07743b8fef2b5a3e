"""`glocal compare`: entries, budgets, and a small comparison from end to end."""

from __future__ import annotations

import io
import json
import resource
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import yaml

import glocal
from glocal.backbones import build_backbone, save_encoder
from glocal.comparison import Budget, Entry, answer, compare as compare_module, measure, page
from glocal.errors import UsageError
from glocal.evaluation import Task, registry
from glocal.methods import method_class
from processes import Command


def test_an_entry_is_a_method_with_options() -> None:
    entry = Entry.parse("vicregl:alpha=0.75,matches=[10,4],flip-aware=false")
    assert (entry.method, entry.options) == ("vicregl", {"alpha": 0.75, "matches": [10, 4], "flip_aware": False})
    assert Entry.parse("vicreg").options == {}
    assert len({Entry.parse(text).folder for text in ("vicregl:alpha=0.75", "vicregl:alpha=0.7", "vicregl")}) == 3


def test_an_unregistered_method_takes_options_too() -> None:
    place = "glocal.methods.vicregl:VICRegL"
    assert Entry.parse(place) == Entry(place, place, {})
    assert Entry.parse(f"{place}:alpha=.5,matches=[10,4]").options == {"alpha": 0.5, "matches": [10, 4]}
    assert Entry.parse(f"{place}:alpha=.5").method == place
    with pytest.raises(UsageError, match="did you mean alpha"):
        Entry.parse(f"{place}:alpa=.5")


@pytest.mark.parametrize(
    "text", ["vicregg", "vicregl:alpa=1", "vicregl:alpha", "vicregl:alpha=", "vicregl:matches=[10"]
)
def test_a_wrong_entry_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        Entry.parse(text)


@pytest.mark.parametrize(
    ("text", "steps"), [("20m", 2400), ("90s", 180), ("1h", 7200), ("50ep", 50 * 15), ("1e6img", 15625), ("640img", 10)]
)
def test_a_budget_pays_for_steps(text: str, steps: int) -> None:
    assert Budget.parse(text).steps(images=1000, batch=64, seconds_per_step=0.5) == steps


@pytest.mark.parametrize("text", ["20", "m", "0ep", "1.2.3m", "20 years", "-5m"])
def test_what_is_no_budget_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--budget"):
        Budget.parse(text)


def runs_are_forked(monkeypatch) -> None:
    """Let runs be forked, which takes five seconds less, and the memory they used be ours."""
    started = {}

    def popen(command, **options):
        assert command[:3] == [sys.executable, "-m", "glocal"]
        forked = Command(*command[3:])
        started[forked.pid] = forked
        return SimpleNamespace(pid=forked.pid, stderr=SimpleNamespace(read=lambda: forked.communicate()[1]))

    def wait4(pid, options):
        return pid, started[pid].returncode << 8, resource.getrusage(resource.RUSAGE_SELF)

    monkeypatch.setattr(measure, "subprocess", SimpleNamespace(Popen=popen, PIPE=subprocess.PIPE))
    monkeypatch.setattr(measure.os, "wait4", wait4)


@pytest.mark.slow
def test_from_end_to_end_and_again(tmp_path, monkeypatch) -> None:
    runs_are_forked(monkeypatch)
    data = "parts:n=48,size=32,difficulty=0"

    def compare(*methods: str, **changes):
        options = {
            "data": data,
            "budget": "96img",
            "seeds": 1,
            "tasks": ["knn", "stability"],
            "backbone": "test_resnet",
            "image_size": 32,
            "batch_size": 16,
            "workers": 0,
            "threads": 1,
            "out": str(tmp_path / "c"),
        }
        return glocal.compare(list(methods), **options | changes)

    out = compare("vicreg", "vicregl:alpha=0.5")
    kept = json.loads((out / "comparison.json").read_text())
    assert {text: len(runs) for text, runs in kept["results"].items()} == {"vicreg": 1, "vicregl:alpha=0.5": 1}
    for runs in kept["results"].values():
        for run in runs:
            assert run["steps"] == 6
            assert 0 <= run["scores"]["knn"]["top1"] <= 1
            assert run["cost"]["images_per_second"] > 0
            assert run["cost"]["peak_memory"] > 1e8
    # One backbone for all: VICRegL's finer map is VICReg's too.
    configs = [yaml.safe_load(path.read_text()) for path in out.glob("runs/*-0/config.yaml")]
    assert {config["output_stride"] for config in configs} == {8}
    assert {config.get("alpha") for config in configs} == {None, 0.5}
    assert kept["answer"][0].startswith("One seed cannot tell a difference from chance")
    written = (out / "comparison.html").read_text()
    for text in ("vicregl:alpha=0.5", "raw pixels", "Nearest neighbours: accuracy", kept["answer"][0]):
        assert text in written

    # What is finished is kept; what was lost comes back to the bit, also without the method that wanted fine maps.
    result = out / "runs" / "vicreg-0.json"
    before = json.loads(result.read_text())
    weights = (out / "runs" / "vicreg-0" / "encoder.safetensors").read_bytes()
    result.unlink()
    shutil.rmtree(out / "runs" / "vicreg-0")
    compare("vicreg")
    again = json.loads(result.read_text())
    assert all(again["scores"][task] == before["scores"][task] for task in ("knn", "stability"))
    assert len(json.loads((out / "comparison.json").read_text())["results"]) == 2
    assert (out / "runs" / "vicreg-0" / "encoder.safetensors").read_bytes() == weights
    with pytest.raises(UsageError, match="other budget"):
        compare("vicreg", budget="64img")


class Finished:
    """A process that has ended."""

    pid, stderr = 1, io.StringIO("")

    def __init__(self, *_, **__) -> None:
        Finished.started += 1

    started = 0


def test_what_a_finished_run_took_outlives_an_interrupted_evaluation(tmp_path, monkeypatch) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    usage = SimpleNamespace(ru_maxrss=2048)
    monkeypatch.setattr(measure.subprocess, "Popen", Finished)
    monkeypatch.setattr(measure.os, "wait4", lambda pid, options: (pid, 0, usage))
    first = measure.train(tmp_path / "x.yaml", run)
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "last.pt").touch()
    usage.ru_maxrss = 1  # of a process that only finds all done
    assert measure.train(tmp_path / "x.yaml", run) == first
    assert Finished.started == 1


def test_a_killed_run_is_said_to_be(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(measure.subprocess, "Popen", Finished)
    monkeypatch.setattr(measure.os, "wait4", lambda pid, options: (pid, 9, SimpleNamespace(ru_maxrss=1)))
    with pytest.raises(UsageError, match="signal 9"):
        measure.train(tmp_path / "x.yaml", tmp_path / "run")


def test_an_interrupted_calibration_is_measured_anew(tmp_path, monkeypatch) -> None:
    path = tmp_path / "runs" / "vicreg-speed"
    path.mkdir(parents=True)
    path.with_suffix(".yaml").touch()
    (path / "metrics.jsonl").write_text('{"step": 10, "images_per_second": 1.0}\n')

    def train(settings, run) -> None:
        assert not run.exists()
        run.mkdir()
        (run / "metrics.jsonl").write_text('{"step": 20, "images_per_second": 32.0}\n')

    monkeypatch.setattr(compare_module, "train", train)
    given = Entry.parse("vicreg"), {"batch_size": 16}, Budget.parse("10s"), 100, tmp_path
    assert compare_module._steps(*given) == 20
    monkeypatch.setattr(compare_module, "train", None)
    assert compare_module._steps(*given) == 20


@pytest.mark.parametrize(("backbone", "pools"), [("test_vit", ["mean", "native"]), ("test_resnet", ["mean"])])
def test_each_way_to_pool_has_its_own_baseline(tmp_path, monkeypatch, backbone, pools) -> None:
    entries = [Entry.parse(text) for text in ("vicregl", "vicreg", "vicreg:covariance_weight=2")]
    for seed, entry in enumerate(entries):
        torch.manual_seed(seed)
        encoder = build_backbone(backbone, image_size=32, pool=method_class(entry.method).pool)
        save_encoder(encoder, tmp_path / "runs" / f"{entry.folder}-0")
    asked = []
    monkeypatch.setattr(compare_module, "_score", lambda arm, *_: asked.append(arm) or {"n": len(asked)})
    protocol = compare_module.Protocol(["x"], "x", "1ep", 1, ["knn"], None, {"image_size": 32})
    first = compare_module._baselines(entries[1:], protocol, tmp_path)
    found = compare_module._baselines(entries, protocol, tmp_path)
    assert set(found) == {"raw pixels", *(f"random initialisation, {pool} pool" for pool in pools)}
    assert first.items() <= found.items()
    assert sorted(arm.pool for arm in asked if arm.name != "pixels") == pools
    assert len(asked) == len(found)
    shutil.rmtree(tmp_path / "runs" / "vicregl-0")
    assert compare_module._baselines(entries, protocol, tmp_path) == found


POSE = Task(dict, frozenset(), title="Pose", main="error", higher_is_better=False, words={"error": "error, px"})


@pytest.fixture
def pose(monkeypatch) -> None:
    find = registry.find_task
    monkeypatch.setattr(registry, "find_task", lambda name: POSE if name == "pose" else find(name))


def runs_of(*pairs: tuple[float, float], rate: float = 9.0, tested: int = 400) -> list:
    """A run a seed: its pose error and kNN accuracy."""
    cost = {"seconds": 60.0, "images_per_second": rate, "peak_memory": 1e9, "joules": None}
    scores = [{"pose": {"error": e, "lr": 0.1}, "knn": {"top1": t, "k": 20}} for e, t in pairs]
    more = {"rank": {"rank_pooled": 9.0}, "meta": {"n_test": tested}}
    return [{"scores": each | more, "cost": cost, "steps": 6, "seed": k} for k, each in enumerate(scores)]


def columns_for(results: dict) -> list:
    return answer.columns_of(run["scores"] for runs in results.values() for run in runs)


@pytest.mark.usefixtures("pose")
def test_columns_are_what_tasks_declare() -> None:
    columns = columns_for({"m": runs_of((3.0, 0.5))})
    assert [(column.name, column.score, column.best) for column in columns] == [
        ("pose", "error", min),
        ("knn", "top1", max),
        ("rank", "rank_pooled", None),
    ]


@pytest.mark.usefixtures("pose")
def test_intervals_hold_the_chance_of_seeds_and_of_test_images() -> None:
    runs = runs_of((1.0, 0.5), (2.0, 0.5), (3.0, 0.5), tested=400)
    error, accuracy, _ = columns_for({"m": runs})
    found = answer.estimate(runs, error)
    assert (found.mean, found.seeds) == (2.0, [1.0, 2.0, 3.0])
    assert found.interval == pytest.approx((2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5))  # t of two degrees
    assert answer.estimate(runs, accuracy).interval == pytest.approx((0.5 - 1.96 * 0.025, 0.5 + 1.96 * 0.025))
    assert answer.estimate(runs[:1], error).interval is None
    assert answer.estimate([], error) is None


@pytest.mark.usefixtures("pose")
@pytest.mark.parametrize(
    ("results", "said"),
    [
        ({"a": [(1.0, 0.9), (1.1, 0.9)], "b": [(3.0, 0.5), (3.1, 0.5)]}, "Choose a: nothing is clearly better in any"),
        ({"a": [(1.0, 0.5), (1.1, 0.5)], "b": [(3.0, 0.9), (3.1, 0.9)]}, "keeps up everywhere: a in Pose: error, px;"),
        ({"a": [(1.0, 0.50), (1.3, 0.52)], "b": [(1.1, 0.51), (1.2, 0.50)]}, "Choose b, the fastest of those between"),
        ({"a": [(1.0, 0.9)], "b": [(3.0, 0.5)]}, "One seed cannot tell a difference from chance"),
        ({"a": [(1.0, 0.9), (1.1, 0.9)]}, "There is nothing to choose between."),
    ],
)  # fmt: skip
def test_the_answer(results: dict[str, list], said: str) -> None:
    made = {name: runs_of(*pairs, rate=9.0 if name == "a" else 12.0) for name, pairs in results.items()}
    assert said in answer.answer(made, columns_for(made))


@pytest.mark.usefixtures("pose")
def test_what_no_method_beats_is_said() -> None:
    results = {"a": runs_of((1.0, 0.90), (1.1, 0.91)), "b": runs_of((3.0, 0.5), (3.1, 0.5))}
    columns = columns_for(results)

    def said(error: float, top1: float) -> str:
        return answer.unbeaten(results, {"pixels": runs_of((error, top1))[0]["scores"]}, columns)

    assert said(9.0, 0.1) == ""
    assert said(9.0, 0.9) == "No method is clearly better than pixels in Nearest neighbours: accuracy."
    assert said(0.5, 0.1) == "No method is clearly better than pixels in Pose: error, px."
    assert said(2.0, 0.99).startswith("No method is clearly better than pixels in Nearest")
    assert said(1.2, 0.95).count(":") == 2  # of the error two seeds say little


@pytest.mark.usefixtures("pose")
def test_a_difference_between_seeds_is_not_taken_for_one_between_methods() -> None:
    a, b = runs_of((1.0, 0.5), (5.0, 0.5), (9.0, 0.5)), runs_of((1.5, 0.5), (5.4, 0.5), (9.6, 0.5))
    error = columns_for({"a": a, "b": b})[0]
    assert answer.clearly_apart(a, b, error)  # seed by seed it is .5 each time
    assert not answer.clearly_apart(a, list(reversed(runs_of((1.5, 0.5), (9.6, 0.5), (5.4, 0.5)))), error)
    assert not answer.clearly_apart(a[:1], b[:1], error)


@pytest.mark.usefixtures("pose")
def test_the_page_escapes_and_shows_every_line(tmp_path) -> None:
    results = {"<script>": runs_of((1.0, 0.9), (1.1, 0.9)), "b": runs_of((3.0, 0.5), (3.1, 0.5))}
    settings = {"backbone": "net", "image_size": 32}
    protocol = {"settings": settings, "data": ["d"], "budget": "6m", "evaluate_on": "d"}
    page.write_page(tmp_path, protocol, results, {"raw pixels": runs_of((2.0, 0.25))[0]["scores"]})
    written = (tmp_path / "comparison.html").read_text()
    assert "<script>" not in written
    assert "on 400 test images of" in " ".join(written.split())
    for text in ("Choose &lt;script&gt;: nothing", "<small>87.1%–92.9%</small>", "raw pixels", "less is better"):
        assert text in written, text
