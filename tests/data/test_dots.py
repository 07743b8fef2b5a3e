"""The dot that moves over noise: the statistics of the authors' world, and that its truth is the truth."""

from __future__ import annotations

import math

import numpy as np
import pytest

from glocal.data import ClipSource, open_source
from glocal.data.dots import NOISES, SIGMA, DotsWorld
from glocal.errors import UsageError


def test_the_dot_has_the_mass_and_the_place_that_it_says():
    world = DotsWorld(20, noise="none")
    y, x = np.mgrid[:28, :28]
    for i in range(0, len(world), 7):
        dot = world.draw(i)[..., 0] / 255
        mass = dot.sum() / (2 * math.pi * SIGMA**2)  # of the authors' dot, a density
        assert mass == pytest.approx(1, abs=0.03)
        at = np.array([(dot * x).sum(), (dot * y).sum()]) / dot.sum()
        assert np.abs(at + 0.5 - world.keypoints.points[i, 0, :2]).max() < 0.1
        assert (world.place.reshape(-1, 2)[i] >= 2 * SIGMA).all()
        assert (world.place.reshape(-1, 2)[i] <= 27 - 2 * SIGMA).all()


def test_its_steps_are_those_of_the_authors():
    world = DotsWorld(2000)
    action = 4 * world.extra["action"].reshape(2000, 17, 2)
    lengths = np.linalg.norm(action[:, :-1], axis=2)
    assert lengths.mean() == pytest.approx(2, abs=0.02)  # uniform from 0 to 4
    assert lengths.std() == pytest.approx(4 / math.sqrt(12), abs=0.02)
    assert not action[:, -1].any()
    unit = action[:, :-1] / lengths[..., None]
    bessel = lambda order, k: sum(
        (k / 2) ** (2 * m + order) / (math.factorial(m) * math.factorial(m + order)) for m in range(9)
    )
    together = np.einsum("nta,nsa->nts", unit, unit)[:, 0, 1:].mean()  # of directions about a mean of the clip
    assert together == pytest.approx((bessel(1, 0.2) / bessel(0, 0.2)) ** 2, abs=0.02)
    moved = np.diff(world.place, axis=1)
    free = ((world.place[:, 1:] > 2 * SIGMA) & (world.place[:, 1:] < 27 - 2 * SIGMA)).all(2)
    assert np.abs(moved - action[:, :-1])[free].max() < 1e-5
    assert 0.6 < free.mean() < 0.95


@pytest.mark.parametrize("noise", NOISES)
def test_noise_changes_or_stays_and_can_be_swapped(noise):
    world = DotsWorld(3, frames=4, noise=noise)
    clear = DotsWorld(3, frames=4, noise="none")
    rest = [world.draw(i).astype(float) - clear.draw(i) / (2 if noise != "none" else 1) for i in range(12)]
    same = lambda a, b: np.abs(rest[a] - rest[b]).max() <= 1
    assert same(0, 1) == (noise == "none" or noise.endswith("fixed"))
    assert same(0, 4) == (noise == "none")
    swapped = world.draw(0, background=5) - clear.draw(0) / (2 if noise != "none" else 1)
    assert np.abs(swapped - rest[5]).max() <= 1


def test_uniform_noise_is_as_bright_as_the_dot():
    world = DotsWorld(40, frames=2, noise="changing")
    pixels = np.stack([world.draw(i) for i in range(80)]) / 255
    dark = pixels[:, :3, :3].ravel()  # where no dot is
    assert dark.mean() == pytest.approx(0.25, abs=0.02)
    assert dark.max() == pytest.approx(0.5, abs=0.02)


def test_it_is_a_collection_of_clips():
    world = open_source("dots:noise=fixed,n=3,frames=5,seed=2", split="test")
    assert isinstance(world, ClipSource)
    assert world.clips() == [range(5), range(5, 10), range(10, 15)]
    assert np.array_equal(world.open(7).decode(), world.draw(7))
    more = DotsWorld(9, frames=5, noise="fixed", split="test", seed=2)
    assert np.array_equal(more.draw(7), world.draw(7))
    assert not np.array_equal(DotsWorld(9, frames=5, noise="fixed", seed=2).place[:3], world.place)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("dots:noise=fixd", "no noise 'fixd'.*did you mean fixed"),
        ("dots:m=3", "unknown option 'm'"),
        ("dots:n=x", "n=x is not a number"),
        ("dots:frames=1", "frames is 1, expected 2 to 1000"),
        ("dots:level=-1", "level is -1"),
    ],
)
def test_what_makes_no_sense_is_refused(spec, says):
    with pytest.raises(UsageError, match=says):
        open_source(spec)
