"""Batches of a stream: the same for any number of workers, from any step on, until one cannot be filled."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch

from glocal.data import RawImage, Stream
from glocal.errors import UsageError
from glocal.views import Crop, Recipe, ViewLoader
from glocal.views.dataset import ATTEMPTS

RECIPE = Recipe((Crop(8, jitter=0, gray=0), Crop(6, jitter=0, gray=0)))


def picture(k: int) -> np.ndarray:
    return np.random.default_rng(k).integers(0, 256, (12, 14, 3), dtype=np.uint8)


def stream(images: int, broken=()) -> Stream:
    return Stream([(f"frame {k}", b"broken" if k in broken else picture(k)) for k in range(images)], name="camera")


@pytest.fixture
def make_loader():
    made = []

    def make(source, batch_size=4, **options) -> ViewLoader:
        made.append(ViewLoader(source, RECIPE, **{"batch_size": batch_size, "seed": 3, **options}))
        return made[-1]

    yield make
    for loader in made:
        loader.close()


def assert_equal(a, b) -> None:
    assert torch.equal(a.index, b.index)
    assert (a.skipped, a.passed) == (b.skipped, b.passed)
    for one, other in zip(a.views, b.views, strict=True):
        assert torch.equal(one.pixels, other.pixels)
        assert torch.equal(one.affine, other.affine)


@pytest.mark.parametrize("workers", [1, 2])
def test_same_batches_for_any_number_of_workers(make_loader, workers):
    whole = list(make_loader(stream(22, {5, 13})).epoch(0))
    assert [batch.index.tolist() for batch in whole] == [
        [0, 1, 2, 3], [4, 6, 6, 7], [8, 9, 10, 11], [12, 14, 14, 15], [16, 17, 18, 19],
    ]  # fmt: skip
    there = list(make_loader(stream(22, {5, 13}), workers=workers).epoch(0))
    for batch, other in zip(whole, there, strict=True):
        assert_equal(batch, other)


def test_the_views_are_those_of_the_same_images_in_a_collection(make_loader):
    class Pictures:
        name, labels = "pictures", None

        def __len__(self):
            return 12

        def open(self, i):
            return RawImage(picture(i))

    whole = make_loader(Pictures(), shuffle=False)
    for batch, other in zip(make_loader(stream(12)).epoch(0), whole.epoch(0), strict=True):
        assert torch.equal(batch.views[0].pixels, other.views[0].pixels)
        assert other.passed is None


@pytest.mark.parametrize("workers", [0, 2])
def test_from_any_step_on(make_loader, workers):
    whole = list(make_loader(stream(30, {9})).epoch(0))
    later = make_loader(stream(30, {9}), workers=workers)
    for batch, again in zip(whole[2:], later.epoch(0, 2), strict=True):
        assert_equal(batch, again)
    for batch, again in zip(whole, later.epoch(0), strict=True):
        assert_equal(batch, again)
    assert not torch.equal(next(later.epoch(1)).views[0].pixels, whole[0].views[0].pixels)


def test_ranks_joined_are_one_process_with_the_whole_batch(make_loader):
    whole = list(make_loader(stream(25, {3, 10}), batch_size=6).epoch(0))
    ranks = [make_loader(stream(25, {3, 10}), batch_size=3, rank=r, world_size=2) for r in (0, 1)]
    for batch, *parts in zip(whole, *(loader.epoch(0) for loader in ranks), strict=True):
        assert torch.equal(batch.index, torch.cat([part.index for part in parts]))
        assert torch.equal(batch.views[0].pixels, torch.cat([part.views[0].pixels for part in parts]))
        assert batch.passed == parts[1].passed


def test_no_more_steps_than_asked_for_and_nothing_is_opened_behind_them(make_loader):
    opened = []

    def image(k):
        return lambda: opened.append(k) or picture(k)

    loader = make_loader(Stream([image(k) for k in range(100)]), steps=3)
    assert len(list(loader.epoch(0))) == loader.steps_per_epoch == 3
    assert len(list(loader.epoch(0, 1))) == 2
    assert opened == [*range(12), *range(4, 12)]


def test_an_unreadable_image_is_replaced_by_the_next_one_and_named(make_loader):
    batches = list(make_loader(stream(17, {2, 3, 4, 16})).epoch(0))
    assert [batch.index.tolist() for batch in batches[:2]] == [[0, 1, 5, 5], [5, 5, 6, 7]]
    assert [name for name, _ in batches[0].skipped] == ["frame 2", "frame 3", "frame 4", "frame 3", "frame 4"]
    assert [name for name, _ in batches[1].skipped] == ["frame 4"]
    assert len(batches) == 4


def test_a_batch_that_its_last_image_does_not_fill_is_the_end(make_loader):
    assert len(list(make_loader(stream(12, {11})).epoch(0))) == 2
    assert len(list(make_loader(stream(13, {11})).epoch(0))) == 3
    assert list(make_loader(stream(3)).epoch(0)) == []


def test_too_many_unreadable_ones_in_a_row_stop_it(make_loader):
    rows = stream(200, range(8, 8 + ATTEMPTS))
    loader = make_loader(rows).epoch(0)
    next(loader), next(loader)
    with pytest.raises(UsageError, match=r"32 images in a row of camera cannot be read, the last being frame 39 \("):
        next(loader)
    assert len(list(make_loader(stream(200, range(8, 7 + ATTEMPTS))).epoch(0))) == 50


def test_what_has_passed_is_what_the_batch_ends_with(make_loader):
    source = stream(40, {7})
    for step, batch in enumerate(make_loader(source).epoch(0)):
        assert batch.passed == (4 * step + 3, stream(40).passed(4 * step + 3))


class Endless(Stream):
    """Image i at once: to go through ten million items takes its time."""

    def __init__(self):
        super().__init__([], name="endless")

    def _entry(self, i):
        return str(i), picture(0), ""


def test_ten_million_positions_cost_no_memory(make_loader):
    loader = make_loader(Endless())
    next(loader.epoch(0))
    tracemalloc.start()
    batch = next(loader.epoch(0, 10**7 // 4))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert batch.index.tolist() == list(range(10**7, 10**7 + 4))
    assert peak < 10**6
