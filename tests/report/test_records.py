from __future__ import annotations

import json

import pytest

from glocal.errors import UsageError
from glocal.report.records import read_run


def test_metrics_are_sorted_into_training_and_monitor(tmp_path):
    lines = [{"step": 1, "loss": 3.0}, {"step": 1, "rank_pooled": 5.0}, {"step": 2, "loss": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(json.dumps(line) for line in lines) + '\n{"step": 3, "lo')
    run = read_run(tmp_path)
    assert run.training == [{"step": 1, "loss": 3.0}, {"step": 2, "loss": 2.0}]
    assert run.monitor == [{"step": 1, "rank_pooled": 5.0}]


@pytest.mark.parametrize("nested", [True, False])
def test_scores_are_kept_and_settings_are_not(tmp_path, nested):
    own = {"knn": {"top1": 0.5, "k": 20, "temperature": 0.07}, "segment": {"miou": 0.3, "iou": {"sky": 0.9}, "lr": 0.1}}
    own |= {"linear": {"top1": float("nan"), "validation_top1": 0.7}, "meta": {"n_test": 30, "seconds": {"knn": 1.5}}}
    random = {"knn": {"top1": 0.4}}
    (tmp_path / "evaluation.json").write_text(json.dumps({**({"encoder": own} if nested else own), "random": random}))
    run = read_run(tmp_path)
    assert run.scores == {"encoder": {"knn": {"top1": 0.5}, "segment": {"miou": 0.3}}, "random": random}
    assert run.tested == 30


def test_settings_are_found_at_any_depth(tmp_path):
    (tmp_path / "config.yaml").write_text("method: {name: vicreg, lr: 3}\nlr: null\nseed: 0\n")
    run = read_run(tmp_path)
    assert run.setting("lr") == 3
    assert run.setting("seed") == 0
    assert run.setting("nothing", "name") == "vicreg"
    assert run.setting("nothing") is None


def test_broken_files_are_said(tmp_path):
    (tmp_path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(UsageError, match=r"config\.yaml is not valid YAML"):
        read_run(tmp_path)
