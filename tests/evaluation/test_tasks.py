"""What a task declares, and what others learn of it."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from glocal.backbones import build_backbone
from glocal.data.arrays import ArraySource
from glocal.errors import UsageError
from glocal.evaluation import all_tasks, declared, evaluate_encoder, possible_tasks, registry, task
from glocal.evaluation.split import Subset


def test_needs_are_a_set_of_names():
    assert task(needs={"labels", "masks"})(dict).needs == {"labels", "masks"}
    with pytest.raises(TypeError, match=r'needs=\{"labels"\}'):
        task(needs="labels")


def test_a_task_names_its_scores():
    made = task(needs=set(), main="b", words={"a": "first"}, shares={"hit_*": "images"})(dict)
    found = {"a": 1.5, "hit_3": 0.5, "b": float("inf"), "lr": 0.1, "k": 3, "c": {"x": 0.5}}
    assert made.scores(found) == {"a": 1.5, "hit_3": 0.5}
    assert list(made.scores(found | {"b": 2.0})) == ["b", "a", "hit_3"]
    assert (made.share_of("hit_3"), made.share_of("a")) == ("images", None)
    assert (made.in_words("a"), made.in_words("hit_3")) == ("first", "hit 3")
    assert list(task(needs=set(), main="lr")(dict).scores(found)) == ["lr", "a", "hit_3"]


def test_what_is_not_registered_declares_nothing_and_imports_nothing():
    assert declared("knn").title == "Nearest neighbours"
    assert declared("key_points").title == "Key points"
    assert declared("antigravity:fly").title == "Fly"
    assert "antigravity" not in sys.modules


def test_our_tasks_are_judged_by_scores_that_they_declare():
    tasks = all_tasks()
    assert all(each.title for each in tasks.values())
    assert {name for name, each in tasks.items() if each.main is None} == {
        "rank",
        "redundancy",
        "attack",
        "information",
        "dimension",
    }
    assert all(each.main in each.words or each.share_of(each.main) for each in tasks.values() if each.main)


def test_a_need_that_the_images_do_not_come_with_is_named(monkeypatch):
    pose = task(needs={"depth", "labels"})(dict)
    monkeypatch.setattr(registry, "find_task", {"pose": pose}.__getitem__)
    monkeypatch.setattr("glocal.evaluation.evaluate.find_task", {"pose": pose}.__getitem__)
    monkeypatch.setattr("glocal.evaluation.evaluate.all_tasks", lambda: {"pose": pose})
    source = ArraySource(np.zeros((10, 8, 8, 3), np.uint8), labels=np.arange(10) % 2)
    with pytest.raises(UsageError, match=r"task 'pose' needs depth; the training images of .* have none"):
        evaluate_encoder(build_backbone("test_resnet"), source, tasks=["pose"])
    assert possible_tasks(source) == []
    monkeypatch.setattr(Subset, "depth", [], raising=False)  # a source that has them
    assert possible_tasks(source) == ["pose"]
