from __future__ import annotations

from pathlib import Path

import pytest

from glocal.evaluation import Task, registry
from glocal.report.records import RunRecord
from glocal.report.scores import tables, wilson


def run_with(encoder: dict, **baselines: dict) -> RunRecord:
    return RunRecord(Path("."), scores={"encoder": encoder, **baselines}, meta={"n_test": 100})


@pytest.mark.parametrize(
    ("share", "count", "low", "high"),
    # Brown, Cai & DasGupta 2001, the score interval: the p at which |p̂ − p| = 1.96·√(p(1 − p)/n)
    [(0.5, 100, 0.4038, 0.5962), (0.0, 10, 0.0, 0.2775), (1.0, 10, 0.7225, 1.0), (0.1, 30, 0.0346, 0.2562)],
)
def test_wilsons_interval(share, count, low, high):
    assert wilson(share, count) == pytest.approx((low, high), abs=1e-4)
    for edge in wilson(share, count):
        assert abs(share - edge) == pytest.approx(1.96 * max(edge * (1 - edge) / count, 0) ** 0.5, abs=1e-6)


def test_scores_are_shown_and_settings_are_not():
    own = {"knn": {"top1": 0.5, "k": 20, "temperature": 0.07}, "linear": {"top1": float("nan"), "validation_top1": 0.7}}
    own |= {"correspond": {"median_error": 2.0, "within_1_cell": 0.25, "within_1_cell_uniform": 0.3, "cells": 9}}
    knn, correspond = tables(run_with(own, start={"knn": {"top1": 0.25}}))
    assert list(knn.rows) == ["accuracy"]
    assert [(cell.text, cell.best) for cell in knn.main.values()] == [("50.0%", True), ("25.0%", False)]
    assert knn.main["encoder"].interval == wilson(0.5, 100)
    # the main score first; a share of cells has no interval; what the start lacks is a dash
    assert {words: cells["encoder"].text for words, cells in correspond.rows.items()} == {
        "matches within one cell": "25.0%",
        "median error, cells": "2.00",
    }
    assert correspond.main["encoder"].interval is None
    assert correspond.main["start"].text == "–"
    assert not correspond.main["encoder"].best  # alone


def test_what_a_task_gives_for_each_class_is_folded():
    own, start = ({"segment": {"miou": 0.3, "iou": {"sky": sky, "<script>": None}}} for sky in (0.9, 0.1))
    own["segment"]["miou_interval"] = [0.25, 0.34]
    (table,) = tables(run_with(own, start=start, pixels={}))
    assert table.main["encoder"].interval == [0.25, 0.34]  # as the task gave it
    assert table.main["start"].interval is None
    ((heading, rows),) = table.folded.items()
    assert heading == "IoU of each class"
    assert {thing: [cell.text for cell in cells.values()] for thing, cells in rows.items()} == {
        "sky": ["90.0%", "10.0%", "–"],
        "<script>": ["–", "–", "–"],
    }


def test_a_task_from_elsewhere_is_shown_as_it_declares(monkeypatch):
    task = Task(
        dict, frozenset(), main="loss", higher_is_better=False, words={"loss": "error, px"}, shares={"at_*": "images"}
    )
    monkeypatch.setattr(registry, "find_task", {"key_points": task}.__getitem__)
    own = {"key_points": {"at_2": 0.5, "loss": 3.0, "other": 1.0, "images": 25}}
    (table,) = tables(run_with(own, start={"key_points": {"loss": 4.0}}))
    assert table.task.title == "Key points"
    assert list(table.rows) == ["error, px", "at 2"]
    assert table.main["encoder"].best
    assert table.rows["at 2"]["encoder"].interval == wilson(0.5, 25)


def test_a_task_that_is_not_installed_shows_all_its_numbers():
    (table,) = tables(run_with({"gone": {"one": 0.5, "two": 12.0, "k": 3, "name": "x"}, "empty": {}}))
    assert {words: cells["encoder"].text for words, cells in table.rows.items()} == {"one": "0.50", "two": "12.0"}
    assert not table.main
