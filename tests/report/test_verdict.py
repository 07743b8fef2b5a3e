from __future__ import annotations

from pathlib import Path

import pytest

from glocal.evaluation import Task, registry
from glocal.report.records import RunRecord
from glocal.report.scores import tables
from glocal.report.verdict import Verdict, judge


def verdict_on(encoder: dict, *, tested: int | None = 1000, **arms: dict) -> Verdict:
    run = RunRecord(Path("."), scores={"encoder": encoder, **arms}, meta={"n_test": tested})
    return judge(run, tables(run))


def knn(value: float) -> dict:
    return {"knn": {"top1": value}}


@pytest.mark.parametrize(
    ("mine", "theirs", "mark", "text", "good"),
    [
        (0.60, 0.40, "✓", "+20.0", True),
        (0.40, 0.60, "✗", "−20.0", False),
        (0.405, 0.40, "≈", "+0.5", False),
        (0.395, 0.40, "≈", "−0.5", False),
    ],
)
def test_one_task(mine, theirs, mark, text, good):
    verdict = verdict_on(knn(mine), start=knn(theirs))
    gain = verdict.gains["Nearest neighbours"]["start"]
    assert (gain.mark, gain.text) == (mark, text)
    words = "the one task that judges it" if good else "no task"
    assert verdict.sentence == f"The encoder is better than random initialisation in {words}."
    assert verdict.good is good


@pytest.mark.parametrize(
    ("mine", "theirs", "tested", "mark"),
    # two standard errors of a difference of accuracies near one half: 2·√(.5/n) = 14.1 points for 100 images
    [(0.56, 0.44, 100, "≈"), (0.58, 0.42, 100, "✓"), (0.56, 0.44, 1000, "✓"), (0.56, 0.44, None, "✓")],
)
def test_small_test_sets_need_larger_differences(mine, theirs, tested, mark):
    assert verdict_on(knn(mine), tested=tested, start=knn(theirs)).gains["Nearest neighbours"]["start"].mark == mark
    # what the task itself looked at counts, where it says so
    found = ({"stability": {"retrieval": value, "images": tested}} for value in (mine, theirs))
    assert verdict_on(next(found), start=next(found)).gains["Stability"]["start"].mark == (mark if tested else "✓")


def test_shares_of_other_things_have_no_such_margin():
    mine, theirs = ({"correspond": {"within_1_cell": value}} for value in (0.25, 0.2))
    assert verdict_on(mine, tested=10, start=theirs).gains["Correspondence"]["start"].mark == "✓"


def test_mixed_tasks_are_told_apart():
    mine = knn(0.6) | {"linear": {"top1": 0.5}, "correspond": {"within_1_cell": 0.2}}
    theirs = knn(0.4) | {"linear": {"top1": 0.5}, "correspond": {"within_1_cell": 0.4}}
    verdict = verdict_on(mine, start=theirs)
    assert verdict.sentence == "The encoder is better than random initialisation in 1 of 3 tasks."
    marks = {task: gains["start"].mark for task, gains in verdict.gains.items()}
    assert marks == {"Nearest neighbours": "✓", "Linear probe": "≈", "Correspondence": "✗"}
    assert not verdict.good


def test_both_baselines_and_a_diagnosis():
    run = RunRecord(
        Path("."),
        scores={"encoder": knn(0.6), "start": knn(0.4), "pixels": knn(0.5)},
        meta={"n_test": 1000, "start": "timm's released weights"},
    )
    verdict = judge(run, tables(run), diagnoses=["It collapsed."])
    assert "better than timm's released weights in the one" in verdict.sentence
    assert " and than raw pixels in the one" in verdict.sentence
    assert {arm: gain.text for arm, gain in verdict.gains["Nearest neighbours"].items()} == {
        "start": "+20.0",
        "pixels": "+10.0",
    }
    assert verdict.remarks == ["It collapsed."]
    assert not verdict.good
    assert judge(run, tables(run)).good


@pytest.mark.parametrize(("higher_is_better", "mark"), [(True, "✗"), (False, "✓")])
def test_a_task_that_nobody_here_knows_is_judged_by_what_it_declares(monkeypatch, higher_is_better, mark):
    task = Task(dict, frozenset(), title="Pose", main="error", higher_is_better=higher_is_better)
    monkeypatch.setattr(registry, "find_task", {"pose": task}.__getitem__)
    verdict = verdict_on({"pose": {"error": 3.0, "seen": 9.0}}, start={"pose": {"error": 12.5, "seen": 1.0}})
    gain = verdict.gains["Pose"]["start"]
    assert (gain.mark, gain.text) == (mark, "−9.50")
    equal = verdict_on({"pose": {"error": 3.0}}, start={"pose": {"error": 3.02}})
    assert equal.gains["Pose"]["start"].mark == "≈"


def test_nothing_to_compare():
    assert "stand alone" in verdict_on(knn(0.6)).sentence
    assert "stand alone" in verdict_on(knn(0.6), start=knn(float("nan"))).sentence
    empty, ranked = RunRecord(Path(".")), RunRecord(Path("."), monitor=[{"step": 1, "rank_pooled": 37.4}])
    assert "nothing can be said" in judge(empty, []).sentence
    assert "effective rank of 37 of 512." in judge(ranked, [], dim=512).sentence
    assert "neighbours and matches" in judge(ranked, [], dim=512, pictures=True).sentence


def test_what_has_no_main_score_is_not_judged():
    assert (
        "nothing can be said"
        in verdict_on({"rank": {"rank_pooled": 9.0}}, start={"rank": {"rank_pooled": 1.0}}).sentence
    )
