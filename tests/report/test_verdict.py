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


TITLES = {"knn": "top1", "segment": "miou", "stability": "retrieval", "correspond": "within_1_cell"}


def continued(*, steps: int = 90, pixels: bool = False, **gains: tuple[float, float]) -> Verdict:
    """On a run from released weights that scored .5, of differences and half their intervals."""
    mine = {task: {TITLES[task]: 0.5 + more} for task, (more, _) in gains.items()}
    begun = {task: {TITLES[task]: 0.5} for task in gains}
    scores = {"encoder": mine, "start": begun} | (
        {"pixels": {task: {TITLES[task]: 0.1} for task in gains}} if pixels else {}
    )
    paired = {task: [more, [more - half, more + half]] for task, (more, half) in gains.items()}
    meta = {"n_test": 100, "start": "timm's released weights", "gains": paired}
    run = RunRecord(Path("."), scores=scores, meta=meta, encoder={"extra": {"images": 3000, "steps": steps}})
    return judge(run, tables(run))


def first(verdict: Verdict) -> str:
    return verdict.sentence.partition(" It is better than raw pixels in ")[0]


def test_photographs_that_improved_an_encoder():
    verdict = continued(knn=(0.031, 0.012))
    assert first(verdict) == "Your 3,000 photographs improved this encoder by +3.1 ± 1.2 points in nearest neighbours."
    assert verdict.gains["Nearest neighbours"]["start"].mark == "✓"  # 100 images apart would not show it
    assert verdict.good
    both = continued(knn=(0.031, 0.012), pixels=True)
    assert both.sentence == f"{verdict.sentence} It is better than raw pixels in the one task that judges it."


def test_photographs_that_improved_it_in_one_task_only():
    verdict = continued(knn=(-0.03, 0.01), segment=(0.02, 0.01), stability=(0.3, 0.1))
    assert first(verdict) == (
        "Your 3,000 photographs improved this encoder by +2.0 ± 1.0 points in segmentation"
        " (worse: −3.0 ± 1.0 points in nearest neighbours)."
    )
    assert "stability" not in verdict.sentence.lower()  # it is what training asks for


def test_photographs_that_did_not():
    verdict = continued(knn=(0.01, 0.02))
    assert first(verdict) == (
        "Your 3,000 photographs did not improve this encoder (no difference: +1.0 ± 2.0 points in nearest neighbours)."
    )
    assert not verdict.good
    worse = continued(knn=(-0.05, 0.02))
    assert "did not improve this encoder (worse: −5.0 ± 2.0 points" in worse.sentence


def test_a_start_that_is_handed_over():
    said = "Your 3,000 photographs did not improve this encoder: it is handed over as it was."
    assert first(continued(steps=0, knn=(0.0, 0.0))) == said


def test_pruned_weights_that_training_did_not_improve_are_told_from_the_base():
    paired = {"knn": (-0.3, (-0.35, -0.25))}
    run = RunRecord(
        Path("."),
        config={"by": "prune", "pretrained": "runs/a"},
        scores={"encoder": knn(0.4), "start": knn(0.7)},
        meta={"n_test": 1000, "gains": paired},
        encoder={"extra": {"steps": 0}},
    )
    assert judge(run, tables(run)).sentence == (
        "Your photographs did not improve the pruned weights, which are handed over untrained; beside runs/a, no better"
        " (worse: −30.0 ± 5.0 points in nearest neighbours)."
    )


def test_of_a_fine_tuned_head_the_held_out_images_speak():
    tuned = {"extra": {"method": "finetune"}}
    config, scores = {"pretrained": "runs/a"}, {"encoder": {"classify": {"top1": 0.625}}}
    run = RunRecord(Path("."), config=config, scores=scores, meta={"n_test": 8}, encoder=tuned)
    assert judge(run, tables(run)).sentence == "62.5% of images right (95%: 31 to 86%), on 8 that were held out."
    assert run.names["start"] == "Start: runs/a"


def test_without_labels_no_more_is_claimed_than_was_measured():
    verdict = continued(stability=(0.25, 0.04), correspond=(0.001, 0.01))
    assert first(verdict) == (
        "Your 3,000 photographs improved this encoder by +25.0 ± 4.0 points in stability (no difference: +0.1 ± 1.0"
        " points in correspondence). What else it is good for, images without labels do not say."
    )


def test_from_scratch_the_sentence_stays():
    run = RunRecord(Path("."), scores={"encoder": knn(0.6), "start": knn(0.4)}, meta={"n_test": 1000})
    assert judge(run, tables(run)).sentence.startswith("The encoder is better than random initialisation")
