from __future__ import annotations

import json

import pytest

from glocal.errors import UsageError
from glocal.report.records import read_run


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "config.yaml").write_text("method: vicreg\n")
    return tmp_path


def test_metrics_are_sorted_into_training_and_monitor(folder):
    lines = [{"step": 1, "loss": 3.0}, {"step": 1, "rank_pooled": 5.0}, {"step": 2, "loss": 2.0}]
    (folder / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 3, "lo')
    run = read_run(folder)
    assert run.training == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    assert run.monitor == [{"step": 1, "rank_pooled": 5.0}]


@pytest.mark.parametrize(
    ("name", "meta", "words"),
    [
        ("random", {}, "random initialisation"),
        ("start", {"start": "timm's released weights"}, "timm's released weights"),
    ],
)
def test_the_start_stands_beside_the_encoder_also_under_its_old_name(folder, name, meta, words):
    own = {"knn": {"top1": 0.5, "k": 20, "temperature": 0.07}, "meta": {"n_test": 30, **meta}}
    baselines = {"pixels": {"knn": {"top1": 0.3}, "meta": {}}, name: {"knn": {"top1": 0.4}, "meta": {}}}
    (folder / "evaluation.json").write_text(json.dumps(own | baselines))
    run = read_run(folder)
    assert list(run.scores) == ["encoder", "start", "pixels"]
    assert [scores["knn"]["top1"] for scores in run.scores.values()] == [0.5, 0.4, 0.3]
    assert all(list(scores) == ["knn"] for scores in run.scores.values())
    assert run.meta["n_test"] == 30
    assert run.start == words
    assert run.names["start"] == f"Start: {words}"


def test_broken_files_are_said(folder):
    (folder / "config.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match=r"config\.yaml is not valid YAML"):
        read_run(folder)
