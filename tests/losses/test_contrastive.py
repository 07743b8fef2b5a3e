import naive_contrastive as naive
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st
from lightly.loss import DCLLoss, DCLWLoss, NTXentLoss

from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from glocal.losses import (
    barlow_twins_loss,
    contrast,
    contrast_hard,
    contrast_pairs,
    contrast_queue,
    dcl,
    decoupled_contrast,
    info_nce,
    mises_fisher_weights,
    vicreg_loss,
)
from processes import on_processes


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same_gradients(ours, theirs, inputs):
    """Both scalars equal, and their gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    gradients = [torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, theirs)]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


def dclw(a, b, temperature=0.1, sigma=0.5):
    return dcl(a, b, temperature, mises_fisher_weights(a, b, sigma))


def barlow(a, b):
    return barlow_twins_loss(a, b).total


def with_entropy(a, b):
    return vicreg_loss(a, b, entropy_weight=3.0).total


@pytest.mark.parity("contriever", oracle="naive float64 loops")
@pytest.mark.parametrize("negatives", [1, 7])
def test_a_queue_is_contrasted_as_the_loops_do(negatives):
    queries, keys = normal(2, 5, 4).requires_grad_()
    queue = normal(negatives, 4, seed=1)
    for temperature in (0.3, 2.0):
        for same in (None, (normal(5, negatives, seed=2) > 0.3), torch.ones(5, negatives, dtype=torch.bool)):
            ours = contrast_queue(queries, keys, queue, temperature, same)
            left = same if same is not None else torch.zeros(5, negatives)
            same_gradients(ours, naive.contrast_queue(queries, keys, queue, temperature, left), [queries, keys])
    far = contrast_queue(1e4 * queries, keys, queue, 0.05)
    assert far.isfinite()


WHAT = [0, 1, 0, 2, 1, 3, 4, 5]


def paired(a, b, temperature):
    """The first pairs have texts of these numbers; images of one text are no negatives of each other."""
    what = torch.tensor(WHAT).chunk(world_size())[rank()][: len(a)]
    return contrast_pairs(a, b, what, torch.tensor(temperature, dtype=a.dtype)).mean()


def test_images_and_texts_find_each_other_as_the_loops_do():
    a, b = normal(2, 6, 4).requires_grad_()
    same_gradients(paired(a, b, 0.3), naive.contrast_pairs(a, b, WHAT, 0.3), [a, b])


@pytest.mark.parity("vfc", oracle="naive float64 loops")
def test_own_hard_negatives_are_contrasted_as_the_loops_do():
    queries, keys = normal(2, 5, 4).requires_grad_()
    hard = normal(5, 3, 4, seed=1).requires_grad_()
    there = torch.from_numpy(np.random.default_rng(0).random((5, 3)) < 0.6)
    ours, theirs = contrast_hard(queries, keys, 0.3, hard, there), naive.contrast_hard(queries, keys, hard, there, 0.3)
    same_gradients(ours, theirs, [queries, keys, hard])
    nothing = naive.contrast_hard(queries, keys, hard[:, :0], there, 0.3)
    same_gradients(contrast_hard(queries, keys, 0.3), nothing, [queries, keys])
    moved = torch.cat([hard[:1], 9 + hard[1:]])
    alone = [torch.autograd.grad(contrast_hard(queries, keys, 0.3, h, there), queries)[0][0] for h in (hard, moved)]
    torch.testing.assert_close(*alone)  # what is hard for others does not matter
    same = torch.ones(5, 4, dtype=torch.float64)
    assert contrast_hard(same, same, 0.3, hard * 0 + 1, there).item() == pytest.approx(1), "by chance"


@pytest.mark.parity("simclr", "dcl", "dclw", oracle="naive float64 loops")
@settings(max_examples=15, deadline=None)
@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 10**6), st.sampled_from([0.1, 0.5, 2.0]))
def test_each_equals_the_loops(batch, dim, seed, temperature):
    z = normal(2, batch, dim, seed=seed).requires_grad_()
    weights = naive.mises_fisher(*z, 0.7)
    for ours, theirs in (
        (info_nce(*z, temperature), naive.nt_xent(*z, temperature)),
        (dcl(*z, temperature), naive.nt_xent(*z, temperature, decoupled=True)),
        (dclw(*z, temperature, 0.7), naive.nt_xent(*z, temperature, decoupled=True, weights=weights)),
        (contrast(*z, temperature), naive.contrast(*z, temperature)),
        (decoupled_contrast(*z, temperature), naive.contrast(*z, temperature, decoupled=True)),
    ):
        same_gradients(ours, theirs, [z])


@pytest.mark.parity("simclr", "dcl", oracle="lightly")
def test_info_nce_and_dcl_equal_lightly():
    z = normal(2, 16, 8).requires_grad_()
    same_gradients(info_nce(*z, 0.3), NTXentLoss(temperature=0.3)(*z), [z])
    same_gradients(dcl(*z, 0.3), DCLLoss(temperature=0.3)(*z), [z])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_dclw_equals_lightly_where_its_weights_are_detached():
    z = normal(2, 16, 8).requires_grad_()
    detached = mises_fisher_weights(*z).detach()
    same_gradients(dcl(*z, 0.3, detached), DCLWLoss(temperature=0.3, sigma=0.5)(*z), [z])
    ours = torch.autograd.grad(dclw(*z, 0.3), z)[0]
    theirs = torch.autograd.grad(DCLWLoss(temperature=0.3, sigma=0.5)(*z), z)[0]
    assert (ours - theirs).abs().max() > 1e-3  # the authors' gradient does go through the weights


def test_weights_average_to_one_and_favour_the_distant():
    a, b = normal(9, 5), normal(9, 5, seed=1)
    weights = mises_fisher_weights(a, b)
    assert weights.mean().item() == pytest.approx(1)
    assert weights.argsort().tolist() == F.cosine_similarity(a, b).argsort(descending=True).tolist()


def test_info_nce_is_the_softplus_of_dcl():
    """Per anchor, hence of the means where all anchors are alike."""
    a, b = normal(1, 4).expand(3, 4), normal(1, 4, seed=1).expand(3, 4)
    assert info_nce(a, b, 0.4).item() == pytest.approx(F.softplus(dcl(a, b, 0.4)).item(), abs=1e-12)


def test_the_gradient_of_info_nce_is_that_of_dcl_times_the_sigmoid_of_dcl():
    """Per anchor: with keys that do not depend on the queries, row i of the gradient is that of anchor i."""
    queries, keys = normal(5, 4).requires_grad_(), normal(5, 4, seed=1)
    info = torch.autograd.grad(contrast(queries, keys, 0.3), queries)[0]
    decoupled = torch.autograd.grad(decoupled_contrast(queries, keys, 0.3), queries)[0]
    similarity = F.cosine_similarity(queries[:, None], keys[None], dim=-1) / 0.3
    similarity, own = similarity.detach(), torch.eye(5, dtype=torch.bool)
    margins = similarity.masked_fill(own, -torch.inf).logsumexp(1) - similarity[own]
    torch.testing.assert_close(info, margins.sigmoid()[:, None] * decoupled)


def test_scales_do_not_matter_and_the_pairing_does():
    a, b = normal(6, 4), normal(6, 4, seed=1)
    scales, order = torch.rand(6, 1, dtype=torch.float64) + 0.1, torch.tensor([1, 2, 3, 4, 5, 0])
    for loss in (info_nce, dcl, dclw, contrast, decoupled_contrast, contrast_hard):
        torch.testing.assert_close(loss(a * scales, 3 * b, 0.2), loss(a, b, 0.2))
        torch.testing.assert_close(loss(a[order], b[order], 0.2), loss(a, b, 0.2))
        assert (loss(a[order], b, 0.2) - loss(a, b, 0.2)).abs() > 1e-3


def test_one_image_is_a_users_mistake():
    for loss in (info_nce, dcl, contrast, contrast_hard):
        with pytest.raises(UsageError, match="batch"):
            loss(torch.ones(1, 3), torch.ones(1, 3), 0.1)


@pytest.mark.parametrize(
    "loss", [info_nce, dcl, dclw, contrast, decoupled_contrast, contrast_hard, barlow, with_entropy]
)
def test_bfloat16_and_autocast_compute_in_float32_at_batch_16(loss):
    options = {} if loss in (barlow, with_entropy) else {"temperature": 0.1}
    a, b = normal(16, 24, dtype=torch.bfloat16), normal(16, 24, seed=1, dtype=torch.bfloat16)
    x = a.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(x, b, **options)
    value.backward()
    exact = a.double().requires_grad_()
    expected = loss(exact, b.double(), **options)
    expected.backward()
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x.grad.double(), exact.grad, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize(
    "loss", [info_nce, dcl, dclw, contrast, decoupled_contrast, contrast_hard, barlow, with_entropy]
)
def test_equal_or_zero_embeddings_give_finite_gradients(loss):
    options = {} if loss in (barlow, with_entropy) else {"temperature": 0.1}
    for z in (torch.ones(4, 3), torch.zeros(4, 3)):
        z.requires_grad_()
        loss(z, z * 1, **options).backward()
        assert z.grad.isfinite().all()


LOSSES = (info_nce, dcl, dclw, contrast, decoupled_contrast, contrast_hard, barlow, with_entropy, paired)


def values_and_gradients():
    """Each loss of this process's part of the batch, and the averaged gradient of a network shared by all."""
    out = []
    for loss in LOSSES:
        for dim in (5, 40):  # Gram matrices of either side
            x, y, w = normal(8, 6), normal(8, 6, seed=1), normal(6, dim, seed=2).requires_grad_()
            options = {} if loss in (barlow, with_entropy) else {"temperature": 0.2}
            mine = [part.chunk(world_size())[rank()] for part in (x, y)]
            value = loss(mine[0] @ w, (mine[1] @ w).tanh(), **options)
            value.backward()
            out.append((value.detach(), w.grad))
    return out


def test_two_processes_say_what_one_says_of_the_joined_batch():
    two = on_processes(2, values_and_gradients)
    for (value, gradient), *parts in zip(values_and_gradients(), *two, strict=True):
        torch.testing.assert_close(sum(part[0] for part in parts) / 2, value, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(sum(part[1] for part in parts) / 2, gradient, rtol=1e-8, atol=1e-9)
        assert gradient.abs().max() > 1e-4
