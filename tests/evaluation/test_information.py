"""The test of normality around an image, and entropies: against closed forms and scipy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal, normaltest
from torch import nn

from glocal.backbones import build_backbone
from glocal.evaluation import evaluate_encoder
from glocal.evaluation.information import affine_error, around, gaussian_entropy, normal_share, reading

SIGMA = 1e-3, 1e-2, 1.0, 30.0


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def examined(net, image, draws=256):
    """By σ, the error of the affine approximation and the share of projections that are normal."""
    noise = drawn(draws, *image.shape, seed=1)
    *found, derivatives = around(net, image, noise, SIGMA, batch=100)
    directions = drawn(found[0].shape[1], 64, seed=2)
    errors = [affine_error(z, derivatives, s) for z, s in zip(found, SIGMA, strict=True)]
    return errors, [normal_share(z, directions) for z in found]


def test_of_an_affine_network_there_is_no_error_and_all_is_normal():
    weight = drawn(8, 3 * 16, seed=3)
    errors, normal = examined(lambda x: x.flatten(1) @ weight.T + 5, drawn(3, 4, 4))
    assert max(errors) < 1e-6
    assert min(normal) > 0.85  # 64 projections of 8 dimensions: .95, but not independently


def test_derivatives_are_the_jacobian_s():
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.Tanh()).double()
    image, noise = drawn(3, 4, 4), drawn(5, 3, 4, 4, seed=1)
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x[None])[0], image).flatten(1)
    *_, derivatives = around(net, image, noise, (1.0,), batch=2)
    torch.testing.assert_close(derivatives, noise.flatten(1) @ jacobian.T)


def test_of_a_relu_network_error_grows_and_normality_is_lost_with_sigma():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(48, 64), nn.ReLU(), nn.Linear(64, 8)).double()
    with torch.no_grad():
        net[1].bias -= 1.0
    errors, normal = examined(net, drawn(3, 4, 4))
    assert errors[0] < 0.05 < errors[2] < errors[3]
    assert normal[0] > 0.85 > normal[3]


def test_normality_is_scipy_s_at_five_percent():
    z, directions = torch.from_numpy(np.random.default_rng(4).standard_t(6, (256, 8))), drawn(8, 200, seed=5)
    pvalues = np.array([normaltest(z.numpy() @ directions[:, k].numpy()).pvalue for k in range(200)])
    assert normal_share(z + 3, directions) == (pvalues > 0.05).mean()
    assert (pvalues > 0.08).mean() < (pvalues > 0.05).mean() < (pvalues > 0.03).mean(), "the level tells"


@pytest.mark.parametrize("dim", [1, 3, 20])
def test_entropy_is_scipy_s(dim):
    root = drawn(dim, dim)
    covariance = root @ root.T + 0.1 * torch.eye(dim)
    assert gaussian_entropy(covariance) == pytest.approx(multivariate_normal(cov=covariance.numpy()).entropy())
    assert gaussian_entropy(torch.zeros(dim, dim)) == -float("inf")


def test_what_is_read_of_correlated_features():
    """Two dimensions of correlation r share −½ log(1 − r²) nats, half of it each."""
    z = drawn(200_000, 2)
    z[:, 1] = 0.6 * z[:, 0] + 0.8 * z[:, 1]
    found = reading(z)
    assert found["diagonal"] == pytest.approx(0.5 * np.log(2 * np.pi * np.e), abs=0.01)
    assert found["shared"] == pytest.approx(-0.25 * np.log(1 - 0.36), abs=0.01)
    assert found["entropy"] == pytest.approx(found["diagonal"] - found["shared"])
    assert found["covariance_term"] == pytest.approx(0.36, abs=0.02)
    assert found["variance_term"] == pytest.approx(0, abs=0.01)


def test_as_a_task_of_an_encoder_under_its_own_seed():
    torch.manual_seed(0)
    encoder, options = build_backbone("test_resnet", image_size=32).eval(), {"images": 2, "draws": 64}
    asked = {"tasks": ["information"], "options": {"information": options}}
    one, again = (evaluate_encoder(encoder, "parts:n=80,size=32", **asked)["information"] for _ in range(2))
    assert one == again
    assert list(one["normal"]) == list(one["error"]) == ["0.001", "0.01", "0.1", "1"]
    assert one["error"]["0.001"] < one["error"]["1"]
    assert one["limit"] in (0.0, 0.001, 0.01, 0.1, 1.0)
    assert one["images"] == 2
