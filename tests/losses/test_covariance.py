import naive_vicregl as naive
import pytest
import torch
from hypothesis import given, settings, strategies as st
from lightly.loss import VICRegLoss

from glocal.errors import UsageError
from glocal.losses import covariance_penalty, invariance, variance_hinge, vicreg_loss, vicregl_global_loss


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same_gradients(ours, theirs, inputs):
    """Both scalars equal, and their gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


batches, dims, seeds = st.integers(2, 9), st.integers(1, 9), st.integers(0, 10**6)


@pytest.mark.parity("vicreg", oracle="naive float64 loops")
@settings(max_examples=15, deadline=None)
@given(batches, dims, seeds)
def test_vicreg_equals_the_loops(batch, dim, seed):
    z = (0.8 * normal(2, batch, dim, seed=seed)).requires_grad_()
    loss, expected = vicreg_loss(*z), naive.vicreg(*z)
    same_gradients(loss.total, sum(expected), [z])
    for name, term in zip(("invariance", "variance", "covariance"), expected, strict=True):
        torch.testing.assert_close(loss.terms[name], term.detach(), rtol=1e-9, atol=1e-9)


@settings(max_examples=15, deadline=None)
@given(batches, dims, st.integers(2, 8), seeds)
def test_vicregl_global_equals_the_loops(batch, dim, views, seed):
    z = (0.8 * normal(views, batch, dim, seed=seed)).requires_grad_()
    loss, expected = vicregl_global_loss(list(z)), naive.global_loss(z)
    same_gradients(loss.total, sum(expected), [z])
    for name, term in zip(("invariance", "variance", "covariance"), expected, strict=True):
        torch.testing.assert_close(loss.terms[f"global_{name}"], term.detach(), rtol=1e-9, atol=1e-9)


@pytest.mark.parity("vicreg", oracle="lightly")
@pytest.mark.parametrize("shape", [(6, 20), (20, 6)])
def test_vicreg_equals_lightly(shape):
    z = (0.8 * normal(2, *shape)).requires_grad_()
    weights = {"invariance_weight": 7.0, "variance_weight": 11.0, "covariance_weight": 3.0}
    theirs = VICRegLoss(lambda_param=7.0, mu_param=11.0, nu_param=3.0)(*z)
    same_gradients(vicreg_loss(*z, **weights).total, theirs, [z])


def test_leading_dimensions_are_averaged():
    z = normal(3, 2, 7, 5)
    for function in (variance_hinge, covariance_penalty):
        torch.testing.assert_close(function(z), torch.stack([function(s) for s in z.flatten(0, 1)]).mean())


def test_constant_batch():
    z = torch.full((8, 5), 3.0)
    terms = vicreg_loss(z, z).terms
    assert terms["invariance"] == 0
    assert terms["covariance"] == 0
    assert terms["variance"].item() == pytest.approx(25 * (1 - 1e-4**0.5), rel=1e-6)


def test_whitened_identical_views_cost_nothing():
    q, _ = torch.linalg.qr(torch.cat([torch.ones(32, 1, dtype=torch.float64), normal(32, 6)], dim=1))
    z = q[:, 1:] * 31**0.5  # centred, unit variances, no covariances
    assert vicreg_loss(z, z).total.abs() < 1e-12


def test_permuting_samples_or_dimensions_or_shifting_changes_nothing():
    a, b = normal(9, 6), normal(9, 6, seed=1)
    samples, dimensions = torch.randperm(9), torch.randperm(6)
    loss = vicreg_loss(a, b).total
    torch.testing.assert_close(vicreg_loss(a[samples], b[samples]).total, loss)
    torch.testing.assert_close(vicreg_loss(a[:, dimensions], b[:, dimensions]).total, loss)
    torch.testing.assert_close(vicreg_loss(a + 100, b + 100).total, loss)
    assert (vicreg_loss(a[samples], b).total - loss).abs() > 1e-3  # the pairing of the samples does count


@pytest.mark.parametrize(("batch", "dim"), [(64, 2), (32, 64), (64, 512), (256, 16)])
def test_float32_error_is_small_beside_the_covariance_matrix(batch, dim):
    for z in (normal(batch, dim), normal(batch, dim) + 5 * normal(batch, 1, seed=1)):
        squared_norm = torch.cov(z.T).square().sum()
        error = (covariance_penalty(z.float()) - covariance_penalty(z)).abs()
        assert error < 1e-5 * squared_norm / dim


def test_bfloat16_and_autocast_compute_in_float32():
    a, b = normal(16, 24, dtype=torch.bfloat16), normal(16, 24, seed=1, dtype=torch.bfloat16)
    expected = vicreg_loss(a.float(), b.float())
    x, y = a.clone().requires_grad_(), a.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = vicreg_loss(x, b)
        loss.total.backward()
        vicreg_loss(y, b.float()).total.backward()
    assert loss.total.dtype == torch.float32
    torch.testing.assert_close(loss.total, expected.total, rtol=1e-6, atol=0)
    exact = a.double().requires_grad_()
    vicreg_loss(exact, b.double()).total.backward()
    torch.testing.assert_close(y.grad.double(), exact.grad, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(x.grad, y.grad.bfloat16(), rtol=1e-2, atol=1e-5)


def test_no_matrix_of_dimensions_squared_is_built():
    z = torch.randn(4, 60_000, requires_grad=True)  # a 60 000² matrix would take 14 GB
    vicreg_loss(z, z.detach()).total.backward()
    assert z.grad.isfinite().all()


def test_terms_add_up_and_carry_no_gradient():
    z = normal(3, 6, 5).requires_grad_()
    for loss in (vicreg_loss(z[0], z[1]), vicregl_global_loss(list(z))):
        torch.testing.assert_close(sum(loss.terms.values()), loss.total.detach())
        assert not any(term.requires_grad for term in loss.terms.values())


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (2, 3, 4)])
def test_second_derivatives_are_right_too(shape):
    assert torch.autograd.gradgradcheck(covariance_penalty, normal(*shape).requires_grad_())


def test_one_image_or_one_view_is_a_users_mistake():
    with pytest.raises(UsageError, match="batch"):
        vicreg_loss(torch.zeros(1, 4), torch.zeros(1, 4))
    with pytest.raises(UsageError, match="views"):
        vicregl_global_loss([torch.zeros(4, 4)])


def test_invariance_is_a_mean_over_all_elements():
    assert invariance(torch.zeros(4, 5), torch.full((4, 5), 3.0)) == 9
