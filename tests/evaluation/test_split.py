import pickle

import numpy as np
import pytest

from glocal.data import Subset
from glocal.errors import UsageError
from glocal.evaluation.split import held_out, same_classes, spread_over


def test_a_stratified_fifth():
    labels = np.repeat([0, 1, 2, 3], [50, 20, 2, 1])
    kept, held = held_out(73, 0, "test", labels=labels)
    assert sorted([*kept, *held]) == list(range(73))
    assert np.bincount(labels[held], minlength=4).tolist() == [10, 4, 1, 0]
    assert (np.diff(held) > 0).all()


def test_depends_on_seed_and_stream_only():
    a, b = held_out(100, 0, "test"), held_out(100, 0, "test")
    assert (a[1] == b[1]).all()
    assert len(a[1]) == 20
    assert set(held_out(100, 1, "test")[1]) != set(a[1]) != set(held_out(100, 0, "probe")[1])


def test_a_fifth_is_rounded_and_leaves_something_on_either_side():
    assert [len(held_out(count, 0, "test")[1]) for count in (2, 3, 7, 8, 12, 13)] == [1, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_hold_out(count):
    kept, held = held_out(count, 0, "test")
    assert (len(kept), len(held)) == (count, 0)


def test_a_subset_is_a_collection(made):
    images, labels = made.coloured(9, 0)
    masks = [np.full((40, 40), i, np.uint8) for i in range(9)]
    whole = made.Scenes(images, masks, labels=labels, mask_classes=["a", "b"], ignore_index=1)
    part = Subset(whole, np.array([7, 2]))
    assert (len(part), part.key(0), part.labels.tolist()) == (2, "7", [1, 2])
    assert (part.mask(1) == 2).all()
    assert (np.asarray(part.open(1).decode()) == images[2]).all()
    assert (part.mask_classes, part.ignore_index, part.classes) == (["a", "b"], 1, whole.classes)


def test_a_subset_travels_to_worker_processes(made):
    part = Subset(made.ArraySource(made.coloured(4, 0)[0]), np.array([3]))
    assert pickle.loads(pickle.dumps(part)).key(0) == "3"


def test_classes_are_matched_by_name_not_by_number(made):
    images, _ = made.coloured(4, 0)
    train = made.ArraySource(images, [0, 1, 2, 0], classes=["ant", "bee", "cat"])
    test = made.ArraySource(images, [0, 1, 1, 0], classes=["ant", "cat"])
    assert same_classes(train, test).labels.tolist() == [0, 2, 2, 0]
    assert same_classes(train, test).classes == ["ant", "bee", "cat"]
    with pytest.raises(UsageError, match="classes dog are in the test"):
        same_classes(train, made.ArraySource(images, [0, 1, 0, 1], classes=["ant", "dog"]))
    assert same_classes(train, train) is train
    many = made.ArraySource(made.coloured(7, 0)[0], range(7), classes=[*"uvwxyz", "ant"])
    with pytest.raises(UsageError, match="classes u, v, w, x, y and 1 more are in the test"):
        same_classes(train, many)


def test_spread_over_takes_all_classes_of_a_sorted_collection(made):
    images, _ = made.coloured(100, 0)
    part = spread_over(made.ArraySource(images, np.repeat(np.arange(10), 10)), 20)
    assert len(part) == 20
    assert np.bincount(part.labels).tolist() == [2] * 10
    assert spread_over(part, 50) is part
    assert spread_over(part, 20) is part
    few = spread_over(made.ArraySource(images), 3)
    assert [few.key(i) for i in range(3)] == ["0", "33", "66"]


@pytest.mark.parametrize("most", [0, -1])
def test_no_images_are_no_choice(made, most):
    with pytest.raises(UsageError, match=f"images is {most}; look at one at least"):
        spread_over(made.ArraySource(*made.coloured(4, 0)), most)
