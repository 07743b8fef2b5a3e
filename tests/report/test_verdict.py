from __future__ import annotations

from pathlib import Path

import pytest

from glocal.report.records import RunRecord
from glocal.report.verdict import judge


def run_with(encoder: dict, tested: int | None = 1000, **arms: dict) -> RunRecord:
    return RunRecord(Path("."), scores={"encoder": encoder, **arms}, meta={"n_test": tested} if tested else {})


def knn(value: float) -> dict:
    return {"knn": {"top1": value}}


@pytest.mark.parametrize(
    ("mine", "theirs", "words", "good"),
    [
        (0.60, 0.40, "better than random initialisation (by 20.0 points in nearest neighbours)", True),
        (0.40, 0.60, "worse than random initialisation (by 20.0 points in nearest neighbours)", False),
        (0.405, 0.40, "not clearly different from random initialisation (by 0.5 points in nearest neighbours)", False),
        (0.395, 0.40, "not clearly different from random initialisation (by 0.5 points in nearest neighbours)", False),
    ],
)
def test_one_task(mine, theirs, words, good):
    verdict = judge(run_with(knn(mine), random=knn(theirs)))
    assert words in verdict.sentence
    assert verdict.good is good


def test_small_test_sets_need_larger_differences():
    # Two standard errors of a difference of accuracies near one half: 2·√(.5/n) = 14.1 points for 100 images.
    assert "not clearly" in judge(run_with(knn(0.56), tested=100, random=knn(0.44))).sentence
    assert "better than" in judge(run_with(knn(0.58), tested=100, random=knn(0.42))).sentence
    assert "better than" in judge(run_with(knn(0.56), tested=1000, random=knn(0.44))).sentence
    assert "better than" in judge(run_with(knn(0.56), tested=None, random=knn(0.44))).sentence


def test_mixed_tasks_are_named():
    mine = knn(0.6) | {"linear": {"top1": 0.5}, "correspond": {"within_1_cell": 0.2}}
    theirs = knn(0.4) | {"linear": {"top1": 0.5}, "correspond": {"within_1_cell": 0.4}}
    verdict = judge(run_with(mine, random=theirs))
    assert verdict.sentence == (
        "The encoder is better than random initialisation in nearest neighbours but worse in correspondence and "
        "not clearly different in linear probe."
    )
    assert not verdict.good


def test_both_baselines_and_a_diagnosis():
    verdict = judge(run_with(knn(0.6), random=knn(0.4), pixels=knn(0.5)), diagnoses=["It collapsed."])
    assert ", and better than raw pixels (by 10.0 points" in verdict.sentence
    assert verdict.remarks == ["It collapsed."]
    assert not verdict.good


def test_nothing_to_compare():
    assert "stand alone" in judge(run_with(knn(0.6))).sentence
    assert "nothing can be said" in judge(RunRecord(Path("."))).sentence
    ranked = RunRecord(Path("."), monitor=[{"step": 1, "rank_pooled": 37.4}])
    assert "effective rank of 37 of 512" in judge(ranked, dim=512).sentence
