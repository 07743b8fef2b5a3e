"""Ridge regression by moments."""

import numpy as np
import torch
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from glocal.evaluation.ridge import moments, ridge


def test_ridge_is_scikit_learns_on_standardised_inputs():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(50, 4)) * [1, 10, 0.1, 3] + 5, draw.normal(size=(50, 3))
    parts = (slice(0, 20), slice(20, 50))
    total = sum(moments(torch.from_numpy(x[rows]).float(), torch.from_numpy(y[rows]).float()) for rows in parts)
    for penalty, (weight, bias) in zip((0.01, 1.0), ridge(total, 4, (0.01, 1.0)), strict=True):
        scaled = StandardScaler().fit(x)
        oracle = Ridge(alpha=50 * penalty).fit(scaled.transform(x), y)
        np.testing.assert_allclose(x @ weight.numpy() + bias.numpy(), oracle.predict(scaled.transform(x)), atol=1e-4)
