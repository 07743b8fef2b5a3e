import naive_contrastive as naive
import pytest
import torch
from hypothesis import given, settings, strategies as st
from lightly.loss import BarlowTwinsLoss

from glocal.errors import UsageError
from glocal.losses import barlow_twins_loss, entropy, vicreg_loss


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def whitened(samples, dim):
    q, _ = torch.linalg.qr(torch.cat([torch.ones(samples, 1, dtype=torch.float64), normal(samples, dim)], dim=1))
    return q[:, 1:] * samples**0.5  # mean 0, variance 1, no covariance


@pytest.mark.parity("barlow_twins", oracle="naive float64 loops")
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(1, 15), st.integers(0, 10**6))
def test_barlow_twins_equals_the_loops(batch, dim, seed):
    z = (0.8 * normal(2, batch, dim, seed=seed) + 3).requires_grad_()
    loss, expected = barlow_twins_loss(*z, redundancy_weight=0.2), naive.barlow_twins(*z, 0.2)
    torch.testing.assert_close(loss.terms["invariance"], expected[0].detach(), rtol=1e-9, atol=1e-9)
    if dim > 1:
        torch.testing.assert_close(loss.terms["redundancy"], expected[1].detach(), rtol=1e-9, atol=1e-9)
    ours, theirs = (torch.autograd.grad(total, z)[0] for total in (loss.total, sum(expected)))
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_barlow_twins_equals_lightly(shape):
    z = normal(2, *shape).requires_grad_()
    ours, theirs = barlow_twins_loss(*z).total, BarlowTwinsLoss(lambda_param=0.0051)(*z)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)  # theirs has another ε
    gradients = [torch.autograd.grad(loss, z)[0] for loss in (ours, theirs)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-5)


def test_barlow_twins_is_blind_to_scale_and_shift_where_vicreg_is_not():
    a, b = normal(12, 5), normal(12, 5, seed=1)
    scale, shift = torch.rand(5, dtype=torch.float64) + 1, normal(5, seed=2)
    torch.testing.assert_close(
        barlow_twins_loss(a * scale + shift, b).total, barlow_twins_loss(a, b).total, rtol=1e-4, atol=1e-4
    )
    assert (vicreg_loss(a * scale, b * scale).total - vicreg_loss(a, b).total).abs() > 1e-2


def test_whitened_identical_views_cost_nothing():
    z = whitened(32, 6)
    assert barlow_twins_loss(z, z * torch.arange(1, 7)).total < 1e-8


def test_no_matrix_of_dimensions_squared_is_built():
    z = torch.randn(2, 4, 60_000, requires_grad=True)  # a 60 000² matrix would take 14 GB
    barlow_twins_loss(*z).total.backward()
    vicreg_loss(*z, entropy_weight=1.0).total.backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize(("batch", "dim"), [(16, 2048), (64, 8)])
def test_float32_is_enough(batch, dim):
    z = normal(2, batch, dim)
    z[1] += z[0]
    torch.testing.assert_close(
        barlow_twins_loss(*z.float()).total.double(), barlow_twins_loss(*z).total, rtol=1e-5, atol=1e-5
    )


def test_one_image_is_a_users_mistake():
    with pytest.raises(UsageError, match="batch"):
        barlow_twins_loss(torch.ones(1, 3), torch.ones(1, 3))


@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_entropy_is_half_the_log_determinant_whichever_gram_matrix_it_takes(shape):
    z = (normal(*shape) @ normal(shape[1], shape[1], seed=1) + 7).requires_grad_()
    covariance = torch.cov(z.T)
    expected = torch.logdet(torch.eye(shape[1]) + covariance / 0.3) / 2 / shape[1]
    torch.testing.assert_close(entropy(z, noise=0.3), expected)
    ours, theirs = (torch.autograd.grad(value, z)[0] for value in (entropy(z, noise=0.3), expected))
    torch.testing.assert_close(ours, theirs)


def test_entropy_is_largest_where_no_direction_stands_out_and_none_where_all_is_the_same():
    z = whitened(40, 6)
    uneven = z * torch.tensor([1.5, 1.2, 1.0, 0.8, 0.6, 0.3], dtype=torch.float64)
    uneven = uneven * (z.var(0).sum() / uneven.var(0).sum()).sqrt()
    assert entropy(z) > entropy(uneven) > entropy(torch.ones_like(z)) == 0


def test_vicreg_takes_the_mean_entropy_of_the_views_off():
    a, b = normal(12, 5), 2 * normal(12, 5, seed=1)
    loss, plain = vicreg_loss(a, b, entropy_weight=3.0), vicreg_loss(a, b)
    torch.testing.assert_close(loss.total, plain.total - 1.5 * (entropy(a) + entropy(b)))
    assert set(loss.terms) - set(plain.terms) == {"entropy"}
