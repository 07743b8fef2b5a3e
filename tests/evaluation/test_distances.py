"""Distances of collections against other people's and naive ones."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from glocal.errors import UsageError
from glocal.evaluation.distances import frechet_distance, kernel_distance, precision_recall


def features(n, seed, dim=6, shift=0.0):
    draw = np.random.default_rng(seed)
    return torch.from_numpy(draw.standard_normal((n, dim)) @ draw.standard_normal((dim, dim)) + shift)


def test_frechets_distance_is_that_of_torchmetrics() -> None:
    fid = pytest.importorskip("torchmetrics.image.fid")

    class Given(torch.nn.Module):
        num_features = 6

        def forward(self, x):
            return x.flatten(1)[:, :6].double()

    pixels = [
        torch.from_numpy(np.random.default_rng(s).integers(0, 200 + s, (200, 3, 2, 2), np.uint8)) for s in (0, 40)
    ]
    theirs = fid.FrechetInceptionDistance(feature=Given())
    theirs.set_dtype(torch.float64)
    for images, real in zip(pixels, (True, False), strict=True):
        theirs.update(images, real=real)
    ours = frechet_distance(*(Given()(images) for images in pixels))
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-4)


def test_frechets_distance_of_what_is_the_same_or_only_moved_is_known() -> None:
    x = features(100, 0)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(x, x + 2) == pytest.approx(4 * 6)
    assert frechet_distance(x, 3 * (x - x.mean(0)) + x.mean(0)) == pytest.approx(float(4 * x.T.cov().trace()))
    assert frechet_distance(x[:4], x[4:8]) >= 0  # fewer rows than dimensions


def naive(a, b):
    kernel = lambda x, y: (float(x @ y) / len(x) + 1) ** 3
    mean = lambda pairs: np.mean([kernel(x, y) for x, y in pairs])
    return mean(itertools.permutations(a, 2)) + mean(itertools.permutations(b, 2)) - 2 * mean(itertools.product(a, b))


def test_the_kernel_distance_and_its_jackknife_are_the_naive_ones() -> None:
    a, b = features(14, 1), features(11, 2, shift=0.3)
    distance, error = kernel_distance(a, b, parts=4)
    assert distance == pytest.approx(naive(a, b))
    keep = lambda x, part: x[torch.arange(len(x)) % 4 != part]
    left_out = np.array([naive(keep(a, part), keep(b, part)) for part in range(4)])
    assert error == pytest.approx(np.sqrt(3 / 4 * ((left_out - left_out.mean()) ** 2).sum()))


def test_the_kernel_distance_is_zero_within_its_error_for_draws_of_one_distribution() -> None:
    draws = torch.from_numpy(np.random.default_rng(3).standard_normal((40, 2, 100, 8)))
    z = [distance / error for distance, error in (kernel_distance(*pair) for pair in draws)]
    assert abs(np.mean(z)) < 0.5
    assert np.mean(np.abs(z) < 1.96) > 0.8


def test_precision_and_recall_say_which_side_is_missing() -> None:
    draw = np.random.default_rng(4)
    near, far = (torch.from_numpy(centre + draw.normal(0, 1, (60, 3))) for centre in (0, 50))
    real = torch.cat([near, far])
    assert precision_recall(real, real) == (1.0, 1.0)
    precision, recall = precision_recall(real, near)  # half of the kinds
    assert precision == 1.0
    assert recall == pytest.approx(0.5)
    assert precision_recall(near, far) == (0.0, 0.0)
    precision, recall = precision_recall(near, real)
    assert (precision, recall) == (pytest.approx(0.5), 1.0)


def test_too_few_are_refused() -> None:
    with pytest.raises(UsageError, match="at least 4"):
        kernel_distance(features(3, 0), features(9, 0))
