"""Codes, sharpening and mean entropy against naive float64 versions, lightly, and what must hold for any input."""

import itertools
import math

import pytest
import torch
from lightly.loss import SwaVLoss

from glocal.losses import mean_entropy, sharpen, sinkhorn
from glocal.losses.distillation import dino_loss


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def naive_codes(scores, epsilon, rounds):
    """As the paper has it: the whole table, in float64, prototypes first."""
    table = [[math.exp(s / epsilon) for s in row] for row in scores.tolist()]
    for _ in range(rounds):
        for k in range(len(table[0])):
            total = sum(row[k] for row in table)
            for row in table:
                row[k] /= total * len(table[0])
        for row in table:
            total = sum(row)
            row[:] = [q / (total * len(table)) for q in row]
    return torch.tensor(table, dtype=torch.float64) * len(table)


@pytest.mark.parametrize("rounds", [1, 3, 10])
def test_codes_are_the_papers(rounds):
    scores = normal(12, 7) / 3
    torch.testing.assert_close(sinkhorn(scores, 0.05, rounds), naive_codes(scores, 0.05, rounds))


def naive_swap(scores, codes, temperature):
    """Caron et al. 2020, eq. 2, over all crops: each predicts the codes of the other large ones, number by number."""
    total, pairs = 0.0, 0
    for i, code in enumerate(codes):
        for v, crop in enumerate(scores):
            if v == i:
                continue
            pairs += 1
            for q, s in zip(code, crop, strict=True):
                p = [torch.exp(x / temperature) for x in s]
                total = total - sum(a * torch.log(b / sum(p)) for a, b in zip(q, p, strict=True)) / len(crop)
    return total / pairs


@pytest.mark.parity("swav", "seer", oracle="naive float64 loops")
@pytest.mark.parametrize(("past", "epsilon", "rounds"), [(8, 0.05, 3), (0, 0.03, 10)])
def test_the_swapped_prediction_is_the_papers(past, epsilon, rounds):
    """With SwAV's queue and codes, and with SEER's."""
    scores, queue = (normal(4, 5, 6) / 3).requires_grad_(), normal(2, past, 6, seed=1) / 3
    together = [torch.cat([q, s.detach()]) for q, s in zip(queue, scores, strict=False)]
    ours = dino_loss(scores.unbind(), [sinkhorn(s, epsilon, rounds)[past:] for s in together], 0.1)
    theirs = naive_swap(scores, [naive_codes(s, epsilon, rounds)[past:] for s in together], 0.1)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scores)[0] for loss in (ours, theirs)))


@pytest.mark.parity("swav", oracle="lightly")
def test_lightly_agrees_on_the_swapped_prediction_and_its_gradient():
    scores = (normal(5, 16, 9, dtype=torch.float32) / 4).requires_grad_()
    past = normal(2, 32, 9, seed=1, dtype=torch.float32) / 4
    codes = [sinkhorn(torch.cat([p, s.detach()]), 0.05, 3)[-16:] for p, s in zip(past, scores, strict=False)]
    ours = dino_loss(scores.unbind(), codes, 0.1)
    expected = SwaVLoss(temperature=0.1, sinkhorn_iterations=3, sinkhorn_epsilon=0.05)(
        list(scores[:2]), list(scores[2:]), list(past)
    )[0]
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(*(torch.autograd.grad(loss, scores, retain_graph=True)[0] for loss in (ours, expected)))


def test_every_sample_sums_to_one_and_more_rounds_balance_better():
    scores = normal(64, 10) / 4
    errors = []
    for rounds in (1, 3, 10, 100):
        codes = sinkhorn(scores, 0.05, rounds)
        torch.testing.assert_close(codes.sum(dim=1), torch.ones(64, dtype=torch.float64))
        errors.append((codes.mean(dim=0) * 10 - 1).abs().max().item())
    assert all(later < earlier for earlier, later in itertools.pairwise(errors)), errors
    assert errors[-1] < 1e-4


def test_constant_scores_give_uniform_codes():
    assert torch.equal(sinkhorn(torch.full((6, 8), 3.0)), torch.full((6, 8), 1 / 8))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(dtype):
    scores = normal(16, 8).to(dtype)  # exp(20) and more
    codes = sinkhorn(scores, 0.05, 3)
    assert codes.dtype == torch.float32
    torch.testing.assert_close(codes.double(), sinkhorn(scores.double(), 0.05, 3), rtol=1e-4, atol=1e-6)


def test_collapse_costs_ln_k():
    scores = [torch.zeros(8, 20)] * 4
    loss = dino_loss(scores, [sinkhorn(s) for s in scores[:2]], 0.1)
    assert loss.item() == pytest.approx(math.log(20), rel=1e-6)


def test_codes_carry_no_gradient():
    assert not sinkhorn(torch.randn(4, 3, requires_grad=True)).requires_grad


@pytest.mark.parametrize("temperature", [0.25, 1.0, 2.0])
def test_sharpening_a_softmax_is_a_softmax_of_lower_temperature(temperature):
    scores = normal(3, 5, 7).requires_grad_()
    ours, expected = sharpen((scores / 0.1).softmax(-1), temperature), (scores / (0.1 * temperature)).softmax(-1)
    torch.testing.assert_close(ours, expected)
    weights = normal(3, 5, 7, seed=1)
    torch.testing.assert_close(*(torch.autograd.grad((weights * p).sum(), scores)[0] for p in (ours, expected)))


def test_sharpening_tiny_and_zero_probabilities():
    p = torch.tensor([[1e-30, 2e-30, 0.0]], requires_grad=True)
    sharp = sharpen(p, 0.25)
    torch.testing.assert_close(sharp, torch.tensor([[1 / 17, 16 / 17, 0.0]]))
    assert torch.autograd.grad(sharp[0, 0], p)[0].isfinite().all()


def test_mean_entropy_is_that_of_the_mean():
    p = normal(4, 6, 5).softmax(-1).requires_grad_()
    m = p.flatten(0, 1).mean(dim=0)
    torch.testing.assert_close(mean_entropy(p), torch.distributions.Categorical(m).entropy())
    ours, expected = (torch.autograd.grad(h, p)[0] for h in (mean_entropy(p), -(m * m.log()).sum()))
    torch.testing.assert_close(ours, expected)


def test_mean_entropy_from_zero_to_ln_k():
    assert mean_entropy(torch.eye(8)).item() == pytest.approx(math.log(8))
    one = torch.eye(8)[:1].repeat(4, 1).requires_grad_()
    entropy = mean_entropy(one)
    assert entropy == 0
    assert torch.autograd.grad(entropy, one)[0].isfinite().all()
