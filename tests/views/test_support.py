"""Labelled images beside each batch: balanced, from the chosen ones only, the same for any number of processes."""

import numpy as np
import pytest
import torch

from glocal.data import ArraySource, PartsWorld
from glocal.errors import UsageError
from glocal.views import Appearance, Crop, Recipe, Support, ViewLoader
from glocal.views.support import balanced_draws, choose_labelled, support_seed

CROP = Crop(16)
WORLD = PartsWorld(60, 32, classes=5)  # 12 of each


def recipe(classes=3, images=4, labelled=0.5):
    return Recipe((CROP, CROP), Support((CROP,), classes, images, labelled))


def test_what_is_labelled_is_so_many_of_each_class_and_depends_on_the_seed_only():
    half, three = choose_labelled(WORLD, 0.5, 0), choose_labelled(WORLD, 3, 0)
    assert [len(ids) for ids in half] == [6] * 5
    assert [len(ids) for ids in three] == [3] * 5
    for label, ids in enumerate(half):
        assert (WORLD.labels[ids] == label).all()
        assert len(set(ids.tolist())) == 6
    again, other = choose_labelled(WORLD, 0.5, 0), choose_labelled(WORLD, 0.5, 1)
    assert all(np.array_equal(a, b) for a, b in zip(half, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(half, other, strict=True))
    assert [len(ids) for ids in choose_labelled(WORLD, 0.001, 0)] == [1] * 5
    assert [len(ids) for ids in choose_labelled(WORLD, 1, 0)] == [1] * 5
    assert [len(ids) for ids in choose_labelled(WORLD, 100, 0)] == [12] * 5


def test_draws_are_balanced_in_a_fixed_order_and_go_through_all_images():
    ids = choose_labelled(WORLD, 0.5, 0)
    draws = balanced_draws(ids, Support((CROP,), 3, 4, 0.5), 20, 7, 0)
    assert draws.shape == (20, 3, 4)
    labels = WORLD.labels[draws]
    assert (labels == labels[:, :, :1]).all()  # a row is of one class
    assert (np.diff(labels[:, :, 0]) > 0).all()  # different ones, in order
    assert len({tuple(row) for row in labels[:, :, 0]}) > 3  # others from step to step
    for label, of_class in enumerate(ids):
        served = draws[labels == label]
        for start in range(0, len(served) - 5, 6):  # each once before any comes again
            assert set(served[start : start + 6]) == set(of_class)
    assert not np.array_equal(draws, balanced_draws(ids, Support((CROP,), 3, 4, 0.5), 20, 7, 1))
    assert balanced_draws(ids, Support((CROP,), 960, 2, 0.5), 4, 7, 0).shape == (4, 5, 2)


def test_two_processes_share_the_support_of_one_and_workers_change_nothing():
    whole = list(ViewLoader(WORLD, recipe(classes=5), batch_size=12, seed=3).epoch(1))
    halves = [
        list(ViewLoader(WORLD, recipe(classes=5), batch_size=6, seed=3, rank=r, world_size=2, workers=r).epoch(1))
        for r in (0, 1)
    ]
    assert len(whole) == 5
    for step, batch in enumerate(whole):
        parts = [half[step].support for half in halves]
        assert torch.equal(batch.support.index, torch.cat([part.index for part in parts]))
        assert [each.classes for each in (batch.support, *parts)] == [5, None, None]
        assert torch.equal(batch.support.label, torch.arange(5).repeat_interleave(4))
        assert torch.equal(batch.support.views[0].pixels, torch.cat([part.views[0].pixels for part in parts]))
    with pytest.raises(UsageError, match="cannot be shared"):
        ViewLoader(WORLD, recipe(classes=3, images=3), batch_size=6, seed=3, world_size=2)


def test_an_epoch_can_be_entered_at_any_step():
    loader = ViewLoader(WORLD, recipe(), batch_size=12, seed=3)
    whole, rest = list(loader.epoch(0)), list(loader.epoch(0, start_step=3))
    for a, b in zip(whole[3:], rest, strict=True):
        assert torch.equal(a.support.views[0].pixels, b.support.views[0].pixels)
        assert torch.equal(a.support.index, b.support.index)


def test_views_and_appearance_are_not_those_of_the_unlabelled_batch():
    loader = ViewLoader(WORLD, recipe(classes=5, images=12, labelled=12), batch_size=60, seed=0)
    raw = next(loader.epoch(0))
    batch = Appearance(recipe(), (0.5,) * 3, (0.25,) * 3, 0)(raw, 0)
    assert batch.support.views[0].pixels.dtype == torch.float32
    where = {int(i): n for n, i in enumerate(batch.index)}
    rows = [where[int(i)] for i in batch.support.index]
    assert not any(torch.equal(raw.views[0].affine[r], raw.support.views[0].affine[n]) for n, r in enumerate(rows))
    alone = Appearance(Recipe((CROP,)), (0.5,) * 3, (0.25,) * 3, support_seed(0))(raw.support, 0)
    assert torch.equal(alone.views[0].pixels, batch.support.views[0].pixels)


def test_an_unreadable_image_is_replaced_by_a_labelled_one(monkeypatch):
    from glocal.data.source import Unreadable

    ids = choose_labelled(WORLD, 3, 0)
    broken, opened = int(ids[0][0]), WORLD.open

    def failing(i):
        if i == broken:
            raise Unreadable("broken")
        return opened(i)

    monkeypatch.setattr(WORLD, "open", failing)
    loader = ViewLoader(WORLD, recipe(classes=5, images=3, labelled=3), batch_size=12, seed=0)
    for batch in loader.epoch(0):
        assert broken in [i for i, _ in batch.support.skipped]
        assert batch.support.classes is None  # whatever takes its place may be of another class
        assert set(batch.support.index.tolist()) <= set(np.concatenate(ids).tolist())
        assert torch.equal(batch.support.label, torch.from_numpy(WORLD.labels)[batch.support.index])


def test_the_log_says_how_many_and_mistakes_are_explained():
    assert ViewLoader(WORLD, recipe(), batch_size=12, seed=0).notes == ["30 of 60 labels used, of 5 classes"]
    plain = ViewLoader(WORLD, Recipe((CROP,)), batch_size=12, seed=0)
    assert plain.notes == []
    assert next(plain.epoch(0)).support is None
    unlabelled = ArraySource(np.zeros((9, 20, 20, 3), np.uint8))
    with pytest.raises(UsageError, match="no labels"):
        ViewLoader(unlabelled, recipe(), batch_size=3, seed=0)
    with pytest.raises(UsageError, match="labelled=0"):
        ViewLoader(WORLD, recipe(labelled=0), batch_size=3, seed=0)
