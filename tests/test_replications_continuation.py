"""The table of continued encoders: which cells there are, what is told of them, what is run again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

import glocal
import replications.continuation as file
from glocal.training import Harmed
from replications.continuation import ARMS, Cell, cells, mark, page

CELL = Cell("camvid", "mobilenet_v1_025", "byol", "default", 0)


def result(gain: float, half: float, stopped: str = "") -> dict:
    return {"start": {"segment": 0.25}, "gains": {"segment": [gain, [gain - half, gain + half]]}, "stopped": stopped}


def test_every_cell_once():
    names = [str(cell) for cell in cells()]
    assert len(names) == len(set(names)) == 4 * 2 * 3 * 3 * len(ARMS)
    assert not any(" " in name for name in names)


@pytest.mark.parametrize(("gain", "word"), [(0.02, "above"), (0.005, "same"), (-0.005, "same"), (-0.02, "below")])
def test_an_interval_says_above_or_below(gain, word):
    assert mark(result(gain, 0.01)["gains"]["segment"]) == word


def test_the_page_counts_scores_and_says_the_mean_over_seeds():
    found = {replace(CELL, seed=k): result(gain, 0.01) for k, gain in enumerate((0.02, 0.03, 0.001))}
    found[replace(CELL, arm="as a new network")] = result(-0.05, 0.01, "stopped after epoch 1")
    counts, rows = page(found).split("\n\n")
    assert "| default | 3 | 2 | 1 | 0 | 0 |" in counts
    assert "| as a new network | 1 | 0 | 0 | 1 | 1 |" in counts
    assert "| camvid | mean IoU | mobilenet_v1_025 | byol | 25.0 | +1.7 (2 above) |  | -5.0 (1 below) |" in rows


def test_a_result_of_another_protocol_is_stale(tmp_path, monkeypatch):
    monkeypatch.setattr(file, "RESULTS", tmp_path)
    assert file.stored(CELL) is None
    CELL.path.parent.mkdir()
    CELL.path.write_text(json.dumps({"protocol": CELL.protocol}))
    assert file.stored(CELL)
    monkeypatch.setattr(file, "RECIPE", file.RECIPE + 1)
    assert file.stored(CELL) is None


def test_a_cell_is_compared_with_its_start_on_images_that_guided_nothing(tmp_path, monkeypatch, photos, released):
    monkeypatch.setattr(file, "SIZE", 32)
    monkeypatch.setattr(file, "STEPS", {"max_steps": 3, "batch_size": 4})
    monkeypatch.setattr(file, "DATA", {photos.name: {"knn": "top1"}})
    monkeypatch.setenv("GLOCAL_WEIGHTS", str(released("mobilenet_v1_025.safetensors").parent))
    cell = Cell(photos.name, "mobilenet_v1_025", "byol", "as a new network", 0)
    found = file.measure(cell, photos.parent, tmp_path)
    more, (low, high) = found["gains"]["knn"]
    assert more == pytest.approx(found["end"]["knn"] - found["start"]["knn"])
    assert low <= more <= high
    assert found["step"] == 3
    assert json.loads(json.dumps(found))["protocol"] == cell.protocol
    guarded = file.measure(replace(cell, arm="default"), photos.parent, tmp_path)
    assert "gain_knn" in guarded["looks"][-1]


def test_a_run_that_collapses_is_scored_as_it_was_then(tmp_path, monkeypatch, photos, released):
    monkeypatch.setattr(file, "SIZE", 32)
    monkeypatch.setattr(file, "DATA", {photos.name: {"knn": "top1"}})

    def collapse(*args, out, **options):
        train(*args, out=out, **options)
        raise Harmed("stopped after epoch 1: complete collapse")

    train = glocal.pretrain
    monkeypatch.setattr(file, "STEPS", {"max_steps": 3, "batch_size": 4})
    monkeypatch.setattr(glocal, "pretrain", collapse)
    monkeypatch.setenv("GLOCAL_WEIGHTS", str(released("mobilenet_v1_025.safetensors").parent))
    found = file.measure(Cell(photos.name, "mobilenet_v1_025", "byol", "as a new network", 0), photos.parent, tmp_path)
    assert found["stopped"].startswith("stopped after epoch 1")
    assert found["step"] is None
    assert set(found["end"]) == {"knn"}
