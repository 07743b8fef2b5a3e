"""The sampler on fields whose answer is known; guidance; what a U-Net needs to be one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glocal.backbones import build_backbone
from glocal.backbones.velocity import FlowSampler, VelocityField, integrate
from glocal.errors import UsageError

MEAN = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
ROOT = torch.tensor([[1.0, 0.0, 0.0], [0.6, 0.5, 0.0], [-0.3, 0.2, 0.1]], dtype=torch.float64)


def exact(x, time):
    """E[ε − x₀ | x_t = x] where x₀ ~ N(MEAN, ROOT·ROOTᵀ)."""
    t = time[0]
    covariance = ROOT @ ROOT.T
    blend = (1 - t) ** 2 * covariance + t**2 * torch.eye(3, dtype=torch.float64)
    away = (x - (1 - t) * MEAN) @ torch.linalg.inv(blend)
    return t * away - MEAN - (1 - t) * away @ covariance


@pytest.mark.parametrize(("solver", "steps"), [("euler", 400), ("heun", 40)])
def test_the_exact_velocity_of_a_gaussian_gives_its_mean_and_covariance(solver, steps) -> None:
    draws = torch.from_numpy(np.random.default_rng(0).standard_normal((500, 3)))
    draws = (draws - draws.mean(0)) @ torch.linalg.inv(torch.linalg.cholesky(draws.T.cov())).T
    made = integrate(exact, draws, steps, solver)
    torch.testing.assert_close(made.mean(0), MEAN, rtol=0.02, atol=0)
    torch.testing.assert_close(made.T.cov(), ROOT @ ROOT.T, rtol=0.02, atol=0.02 * float((ROOT @ ROOT.T).max()))


def test_euler_and_heun_follow_the_products_that_a_linear_field_comes_to() -> None:
    matrix = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 4))) / 2
    x = torch.from_numpy(np.random.default_rng(2).standard_normal((5, 4)))
    step, eye = -0.2 * matrix, torch.eye(4, dtype=torch.float64)
    euler = x @ torch.linalg.matrix_power(eye + step, 5)
    heun = x @ torch.linalg.matrix_power(eye + step + step @ step / 2, 4) @ (eye + step)  # the last looks once
    field = lambda x, t: x @ matrix
    torch.testing.assert_close(integrate(field, x, 5), euler, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(integrate(field, x, 5, "heun"), heun, rtol=1e-12, atol=1e-12)


def test_euler_takes_the_steps_of_diffusers() -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=1.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 16, 16).tolist())
    field = lambda x, t: torch.sin(3 * x) + t[:, None] * x
    noise = torch.from_numpy(np.random.default_rng(3).standard_normal((4, 7)).astype(np.float32))
    theirs = noise
    for sigma, time in zip(scheduler.sigmas, scheduler.timesteps, strict=False):
        theirs = scheduler.step(field(theirs, sigma.expand(4)), time, theirs).prev_sample
    torch.testing.assert_close(integrate(field, noise, 16), theirs, rtol=1e-6, atol=1e-6)


def test_the_times_go_from_one_to_zero_without_either_end_being_missed() -> None:
    seen = []
    integrate(lambda x, t: seen.append(float(t[0])) or x, torch.ones(2, 1), 4)
    assert seen == [1.0, 0.75, 0.5, 0.25]


@pytest.fixture
def field() -> VelocityField:
    torch.manual_seed(0)
    made = VelocityField(build_backbone("unet_tiny"), 3).double()
    for weight in made.parameters():  # some begin at zero
        torch.nn.init.normal_(weight, std=0.1)
    return made


def test_guidance_of_zero_is_the_conditional_field_and_more_of_it_leads_away_from_none(field) -> None:
    x, t = torch.randn(4, 3, 16, 16, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    cluster, none = torch.tensor([0, 1, 2, -1]), torch.full((4,), -1)
    of, without = field(x, t, cluster), field(x, t)
    assert torch.equal(field.guided(x, t, cluster, 0.0), of)
    torch.testing.assert_close(field.guided(x, t, cluster, 1.5), 2.5 * of - 1.5 * without)
    torch.testing.assert_close(field(x, t, none), without)
    torch.testing.assert_close(of[3], without[3])
    assert (of[:3] - without[:3]).abs().amax((1, 2, 3)).min() > 1e-3
    torch.testing.assert_close(field(x[2:3], t[2:3], cluster[2:3]), of[2:3])  # each image by itself


def test_a_sampler_is_differentiable_and_unnormalises() -> None:
    sampler = FlowSampler(build_backbone("unet_tiny").config, 0, 16).eval()
    z = torch.randn(2, 3, 16, 16, requires_grad=True)
    images = sampler(z)  # the last layer is zero: the noise itself, of mean and deviation a half
    torch.testing.assert_close(images, z * 0.5 + 0.5)
    images.sum().backward()
    assert torch.equal(z.grad, torch.full_like(z, 0.5))


def test_features_are_the_map_in_the_middle_and_do_not_depend_on_a_draw() -> None:
    encoder = build_backbone("unet_tiny").eval()
    x = torch.randn(2, 3, 32, 32)
    first, again = encoder(x), encoder(x)
    assert first.dense.shape == (2, 64, 8, 8)
    assert encoder.stride == 4
    torch.testing.assert_close(first.pooled, first.dense.mean((2, 3)))
    assert torch.equal(first.pooled, again.pooled)


def test_other_backbones_and_no_steps_are_refused() -> None:
    with pytest.raises(UsageError, match="unet_tiny or unet_small"):
        VelocityField(build_backbone("test_resnet"), 3)
    with pytest.raises(UsageError, match="at least 1 step"):
        integrate(lambda x, t: x, torch.ones(1, 1), 0)
