"""Counter-based randomness: known answers, independence of shape and order, uniformity."""

from __future__ import annotations

import random as python_random

import numpy as np
import pytest
import torch

from glocal import random


def test_mixer_is_splitmix64():
    """The first outputs of the published generator from seed 1234567 (as in its C test vectors)."""
    golden = 0x9E3779B97F4A7C15
    states = np.array([(1234567 + k * golden) % 2**64 for k in (1, 2, 3)], dtype=np.uint64)
    with np.errstate(over="ignore"):
        out = random._mix(states)
    assert out.tolist() == [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_numbers_do_not_change_between_versions():
    """A run must be repeatable with a later version: these values are frozen."""
    assert random.derive(7, "crop", 3, 11) == 7506455173637219457
    frozen = [0.5148075014332621, 0.31984481850817703, 0.9198049118938966]
    assert random.uniform(7, "crop", 3, 11, n=3).tolist() == frozen
    assert random.permutation(6, 7, "order", 3).tolist() == [4, 1, 0, 2, 3, 5]


def test_arrays_of_keys_equal_one_call_for_each():
    samples, views = np.array([5, 0, 2**40]), np.arange(2)
    together = random.uniform(1, "s", 9, samples[:, None], views, n=4)
    assert together.shape == (3, 2, 4)
    for i, sample in enumerate(samples):
        for view in views:
            np.testing.assert_array_equal(together[i, view], random.uniform(1, "s", 9, int(sample), int(view), n=4))


def test_more_numbers_begin_with_the_fewer():
    np.testing.assert_array_equal(random.uniform(1, "s", 2, n=9)[:4], random.uniform(1, "s", 2, n=4))


@pytest.mark.parametrize(
    "other",
    [(2, "s", 3, 4), (1, "t", 3, 4), (1, "s", 4, 3), (1, "s", 3), (1, "s", 3, 4, 0), (1, "s", 3, -4), (-1, "s", 3, 4)],
)
def test_any_change_of_keys_changes_everything(other):
    a, b = random.uniform(1, "s", 3, 4, n=1000), random.uniform(*other, n=1000)
    assert np.abs(np.corrcoef(a, b)[0, 1]) < 0.12
    assert random.derive(1, "s", 3, 4) != random.derive(*other)


@pytest.mark.parametrize("axis", ["n", "sample", "epoch", "seed"])
def test_uniform_along_every_axis(axis):
    """Mean, variance, evenly filled bins and no serial correlation, whichever key is counted up."""
    count = 20_000
    numbers = np.arange(count)
    u = {
        "n": lambda: random.uniform(0, "s", 1, n=count),
        "sample": lambda: random.uniform(0, "s", 1, numbers, n=1)[:, 0],
        "epoch": lambda: random.uniform(0, "s", numbers, 1, n=1)[:, 0],
        "seed": lambda: np.array([random.uniform(seed, "s", 1, n=1)[0] for seed in range(2000)]),
    }[axis]()
    size = len(u)
    assert u.min() >= 0
    assert u.max() < 1
    assert abs(u.mean() - 0.5) < 4 * np.sqrt(1 / 12 / size)
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 4 / np.sqrt(size)
    counts = np.histogram(u, bins=50, range=(0, 1))[0]
    chi2 = ((counts - size / 50) ** 2 / (size / 50)).sum()
    assert 20 < chi2 < 95  # 49 degrees of freedom


def test_permutation_is_one_and_depends_on_its_keys():
    order = random.permutation(1000, 3, "order", 0)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(1000))
    assert (order != random.permutation(1000, 3, "order", 1)).mean() > 0.98
    assert random.permutation(0, 3, "order").tolist() == []


def test_derived_seeds_suit_every_generator():
    seeds = [random.derive(0, "s", k) for k in range(200)]
    assert len(set(seeds)) == 200
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))
    np.random.default_rng(max(seeds))


def test_global_generators_are_left_alone():
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), python_random.getstate()  # noqa: NPY002
    random.uniform(0, "s", 1, n=3), random.permutation(9, 0, "s"), random.derive(0, "s")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == np.random.get_state()[1].tolist()  # noqa: NPY002
    assert before[2] == python_random.getstate()
