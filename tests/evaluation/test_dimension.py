"""Dimensions of surfaces that are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glocal.errors import UsageError
from glocal.evaluation import EvalContext, FeatureBank
from glocal.evaluation.dimension import (
    dimension,
    likeliest,
    neighbour_distances,
    two_nearest,
)


def cube(n, d, seed=0, wide=10):
    """Points of a d-dimensional cube, turned into `wide` dimensions."""
    draw = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(draw.standard_normal((wide, wide)))
    return torch.from_numpy(draw.uniform(size=(n, d)) @ turned[:d])


def context(x):
    found = EvalContext(torch.nn.Identity(), None, None, 32)
    found._banks["train"] = FeatureBank(x, torch.arange(len(x)), [])
    return found


@pytest.mark.parametrize("d", [1, 2, 4])
def test_intrinsic_dimensions_of_a_cube(d) -> None:
    near = neighbour_distances(cube(2000, d), 20)
    assert two_nearest(near) == pytest.approx(d, rel=0.1)
    assert likeliest(near) == pytest.approx(d, rel=0.1)


def test_intrinsic_dimensions_are_scikit_dimensions() -> None:
    skdim = pytest.importorskip("skdim")
    x = cube(500, 3)
    near = neighbour_distances(x, 20)
    assert two_nearest(near) == pytest.approx(skdim.id.TwoNN(discard_fraction=0.1).fit(x.numpy()).dimension_, rel=1e-9)
    assert likeliest(near) == pytest.approx(skdim.id.MLE(K=20).fit(x.numpy(), n_neighbors=20).dimension_, rel=1e-9)


def test_distances_are_those_of_brute_force_and_twins_are_left_out() -> None:
    x = cube(40, 3)
    x[7] = x[3]
    whole = torch.linalg.vector_norm(x[:, None] - x, dim=-1)
    kept = [i for i in range(40) if i not in (3, 7)]
    torch.testing.assert_close(neighbour_distances(x, 5), whole.sort(1).values[kept, 1:6])


def test_likeliest_of_one_point_is_its_closed_form() -> None:
    r = torch.tensor([[1.0, 2.0, 4.0]], dtype=torch.float64)
    assert likeliest(r) == pytest.approx(2 / (np.log(4) + np.log(2)))


def test_a_bent_surface_has_fewer_dimensions_than_directions() -> None:
    angle = torch.from_numpy(np.random.default_rng(5).uniform(0, 2 * np.pi, 1000))
    circle = torch.stack([angle.cos(), angle.sin(), 0 * angle], 1)
    found = dimension(context(circle))
    assert found["effective"] == pytest.approx(2, abs=0.01)
    assert found["directions"] == 2
    assert found["two_nn"] == pytest.approx(1, rel=0.1)
    assert found["dim"] == 3
    assert sum(found["singular_values"]) == pytest.approx(1)


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UsageError, match="too few"):
        dimension(context(cube(15, 2)))
    with pytest.raises(UsageError, match="the same"):
        dimension(context(torch.ones(100, 4)))
