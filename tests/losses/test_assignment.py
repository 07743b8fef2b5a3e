"""MSN's and PAWS's losses against loops in float64, lightly, and what must hold for any input."""

import math

import pytest
import torch
from lightly.loss import MSNLoss

from glocal.losses import mean_entropy, sharpen
from glocal.losses.assignment import (
    balanced_targets,
    cosine_scores,
    cross_entropy,
    masked_mean,
    support_predictions,
    swapped_targets,
)
from glocal.losses.distillation import soft_cross_entropy


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def same(ours, theirs, inputs, tolerance=1e-9):
    """Both scalars equal, and their gradients."""
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    grads = (torch.autograd.grad(loss, inputs, retain_graph=True) for loss in (ours, theirs))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def unit(row):
    return row / row.square().sum().sqrt()


def msn(anchors, targets, prototypes):
    """The loss as the method composes it; anchors (V, B, D)."""
    scores = cosine_scores(anchors, prototypes)
    codes = balanced_targets(cosine_scores(targets, prototypes), 0.1 * 0.25)
    spread = math.log(len(prototypes)) - mean_entropy((scores / 0.1).softmax(-1))
    return soft_cross_entropy(scores.transpose(0, 1), codes, 0.1) + spread


def naive_msn(anchors, targets, prototypes, rounds=3):
    """Assran et al. 2022, eq. 1 and 2, number by number."""
    softmax = lambda z: torch.stack([torch.exp(unit(z) @ unit(q) / 0.1) for q in prototypes])
    sharp = []
    for z in targets:
        p = softmax(z.detach())
        p = (p / p.sum()).detach() ** 4
        sharp.append((p / p.sum()).tolist())
    for _ in range(rounds):
        sums = [sum(row[k] for row in sharp) for k in range(len(prototypes))]
        sharp = [[q / s for q, s in zip(row, sums, strict=True)] for row in sharp]
        sharp = [[q / sum(row) for q in row] for row in sharp]
    mean, loss, number = 0.0, 0.0, anchors.shape[0] * anchors.shape[1]
    for view in anchors:
        for z, q in zip(view, sharp, strict=True):
            p = softmax(z)
            p = p / p.sum()
            mean = mean + p / number
            loss = loss - sum(b * torch.log(a) for a, b in zip(p, q, strict=True)) / number
    return loss + math.log(len(prototypes)) + sum(a * torch.log(a) for a in mean)


@pytest.mark.parity("msn", oracle="naive float64 loops")
@pytest.mark.parametrize("views", [1, 3])
def test_msn_is_the_papers_loss_and_lightlys(views):
    inputs = anchors, prototypes = normal(views, 6, 5).requires_grad_(), normal(7, 5, seed=2).requires_grad_()
    targets = normal(6, 5, seed=1)
    ours = msn(anchors, targets, prototypes)
    same(ours, naive_msn(anchors, targets, prototypes), inputs)
    same(ours, MSNLoss(temperature=0.1, sinkhorn_iterations=3)(anchors.flatten(0, 1), targets, prototypes), inputs)


def test_no_rounds_sharpen_only():
    scores = normal(4, 6)
    expected = sharpen((scores / 0.1).softmax(-1), 0.25)
    torch.testing.assert_close(balanced_targets(scores, 0.025, rounds=0), expected)


def naive_predictions(queries, supports, labels, smoothing):
    """PAWS, eq. 1, number by number."""
    classes, rows = sorted(set(labels.tolist())), []
    for z in queries:
        weights = [torch.exp(unit(z) @ unit(s) / 0.1) for s in supports]
        row = [0.0] * len(classes)
        for weight, label in zip(weights, labels.tolist(), strict=True):
            for k, name in enumerate(classes):
                row[k] = row[k] + weight / sum(weights) * ((1 - smoothing) * (label == name) + smoothing / len(classes))
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parity("paws", oracle="naive float64 loops")
def test_paws_is_the_papers_loss():
    z, s = normal(4, 3, 5).requires_grad_(), normal(6, 5, seed=1).requires_grad_()
    h, s_h, labels = normal(2, 3, 5, seed=2), normal(6, 5, seed=3), torch.tensor([4, 4, 9, 9, 2, 2])
    p, t = support_predictions(z, s, labels), support_predictions(h, s_h, labels)
    ours = cross_entropy(p, swapped_targets(t, 4)) - mean_entropy(sharpen(p, 0.25))

    p = [naive_predictions(view, s, labels, 0.1) for view in z]
    sharp = lambda rows: torch.stack([row**4 / (row**4).sum() for row in rows])
    first, second = (sharp(naive_predictions(view, s_h, labels, 0.1)) for view in h)
    targets = [second, first, (first + second) / 2, (first + second) / 2]
    loss = 0.0
    for rows, qs in zip(p, targets, strict=True):
        for row, q in zip(rows, qs, strict=True):
            loss = loss - sum(b * torch.log(a) for a, b in zip(row, q, strict=True) if b >= 1e-4) / 12
    mean = torch.cat([sharp(rows) for rows in p]).mean(0)
    assert any((q < 1e-4).any() for q in targets)
    same(ours, loss + (mean * mean.log()).sum(), [z, s])


def test_predictions_are_distributions_and_permuting_supports_with_their_labels_changes_nothing():
    z, s, labels, order = normal(5, 4), normal(8, 4, seed=1), torch.arange(8) // 2, torch.randperm(8)
    p = support_predictions(z, s, labels)
    torch.testing.assert_close(p.sum(-1), torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(support_predictions(z, s[order], labels[order]), p)
    torch.testing.assert_close(support_predictions(3 * z, s, labels), p)
    renamed = torch.tensor([5, 40, 41, 900])[labels]
    assert torch.equal(
        support_predictions(z, s[order], renamed[order], classes=4), support_predictions(z, s[order], labels[order])
    )


def test_a_query_equal_to_one_support_gets_its_label_as_the_temperature_falls():
    s, labels = normal(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    p = support_predictions(s, s, labels, temperature=1e-3, smoothing=0.0)
    torch.testing.assert_close(p, torch.nn.functional.one_hot(labels).double())
    assert cross_entropy(p, p).isfinite()  # log 0


def test_targets_carry_no_gradient_and_leave_out_what_is_tiny():
    p = torch.tensor([[[0.97, 0.029, 0.001]], [[0.5, 0.3, 0.2]]], requires_grad=True)
    targets = swapped_targets(p, 3)
    assert not targets.requires_grad
    assert targets[1, 0].tolist() == [pytest.approx(1.0, abs=1e-4), 0.0, 0.0]
    torch.testing.assert_close(targets[0, 0], sharpen(p.detach()[1, 0], 0.25))
    torch.testing.assert_close(targets[2, 0, 1], sharpen(p.detach()[1, 0], 0.25)[1] / 2, rtol=1e-4, atol=1e-4)


def test_masked_mean():
    values, mask = torch.tensor([1.0, 5.0, math.nan], requires_grad=True), torch.tensor([True, True, False])
    masked_mean(values, mask).backward()
    assert values.grad.tolist() == [0.5, 0.5, 0.0]
    assert masked_mean(values.detach(), torch.zeros(3, dtype=torch.bool)) == 0


def test_half_precision_is_computed_in_float32():
    z, s, labels = normal(16, 8, dtype=torch.bfloat16), normal(6, 8, seed=1, dtype=torch.bfloat16), torch.arange(6) // 2
    for function in (cosine_scores, lambda a, b: support_predictions(a, b, labels)):
        with torch.autocast("cpu", torch.bfloat16):
            ours = function(z, s)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, function(z.float(), s.float()))
    assert balanced_targets(z, 0.025).dtype == torch.float32
