"""Cosine regression and self-distillation against loops written from the papers, and against lightly."""

import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from lightly.loss import DINOLoss, NegativeCosineSimilarity

from glocal.losses.distillation import (
    dino_loss,
    moved_center,
    negative_cosine,
    soft_cross_entropy,
    teacher_distribution,
)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def same(ours, theirs, inputs):
    """Both scalars equal, and their gradients."""
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    for a, b in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)  # lightly keeps some constants in float32


def naive_dino(students, teachers, center, sharp, soft):
    """Caron et al. 2021, algorithm 1, number by number."""
    total, pairs = 0.0, 0
    for i, teacher in enumerate(teachers):
        for v, student in enumerate(students):
            if i == v:
                continue
            pairs += 1
            for t, s in zip(teacher, student, strict=True):
                e = [math.exp(float(a - c) / sharp) for a, c in zip(t, center, strict=True)]
                q = [a / sum(e) for a in e]
                log_z = torch.log(torch.exp(s / soft).sum())
                total = total - sum(a * (b / soft - log_z) for a, b in zip(q, s, strict=True)) / len(teacher)
    return total / pairs


@pytest.mark.parity("dino", oracle="naive float64 loops")
@settings(max_examples=20, deadline=None)
@given(st.integers(1, 4), st.integers(2, 6), st.integers(2, 4), st.integers(0, 10**6))
def test_dino_equals_the_loops(batch, outputs, views, seed):
    students, teachers = (
        normal(views, batch, outputs, seed=seed).requires_grad_(),
        normal(2, batch, outputs, seed=seed + 1),
    )
    center = normal(outputs, seed=seed + 2)
    targets = [teacher_distribution(t, center, 0.3) for t in teachers]
    same(dino_loss(list(students), targets, 0.7), naive_dino(students, teachers, center, 0.3, 0.7), [students])


@pytest.mark.parity("dino", oracle="lightly")
def test_dino_and_its_centre_equal_lightly_over_steps():
    theirs, center = DINOLoss(output_dim=7).double(), torch.zeros(7, dtype=torch.float64)
    for step in range(3):
        students, teachers = normal(5, 4, 7, seed=step).requires_grad_(), normal(2, 4, 7, seed=10 + step) + 2
        targets = [teacher_distribution(t, center, 0.0625) for t in teachers]  # exact in float32, as lightly has it
        same(
            dino_loss(list(students), targets), theirs(list(teachers), list(students), teacher_temp=0.0625), [students]
        )
        center = moved_center(center, list(teachers))
        torch.testing.assert_close(center, theirs.center.flatten())


def test_one_target_for_many_cells_is_the_mean_over_them():
    logits, target = normal(3, 5, 6).requires_grad_(), normal(3, 6, seed=1).softmax(-1)
    each = torch.stack([soft_cross_entropy(cell, target, 0.2) for cell in logits.unbind(1)]).mean()
    same(soft_cross_entropy(logits, target, 0.2), each, [logits])


def test_constant_output_costs_ln_k_and_a_perfect_student_its_entropy():
    target = normal(4, 9, seed=3).softmax(-1)
    assert soft_cross_entropy(torch.full((4, 9), 3.0), target, 0.1).item() == pytest.approx(math.log(9))
    entropy = -(target * target.log()).sum(-1).mean()
    torch.testing.assert_close(soft_cross_entropy(0.1 * target.log(), target, 0.1), entropy)


def test_the_teacher_gets_no_gradient():
    logits = normal(4, 9).requires_grad_()
    assert not teacher_distribution(logits, torch.zeros(9), 0.1).requires_grad


def test_centring_alone_flattens_and_sharpening_alone_concentrates():
    """One distribution shared by all images, as a collapsing teacher's; the centre follows it."""
    logits, center = normal(1, 16).repeat(8, 1), torch.zeros(16, dtype=torch.float64)
    for _ in range(200):
        center = moved_center(center, [logits])
    entropy = lambda q: -(q * q.clamp_min(1e-30).log()).sum(-1).mean().item()
    assert entropy(teacher_distribution(logits, center, 0.04)) == pytest.approx(math.log(16), abs=1e-6)
    assert entropy(teacher_distribution(logits, torch.zeros(16), 0.04)) < 0.1


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.integers(0, 10**6))
def test_negative_cosine_equals_lightly_and_byols_distance(batch, dim, seed):
    p, z = normal(batch, dim, seed=seed).requires_grad_(), normal(batch, dim, seed=seed + 1)
    same(negative_cosine(p, z), NegativeCosineSimilarity()(p, z), [p])
    distance = (p / p.norm(dim=1, keepdim=True) - z / z.norm(dim=1, keepdim=True)).square().sum(1).mean()
    same(2 + 2 * negative_cosine(p, z), distance, [p])


def test_half_precision_is_computed_in_float32():
    a, b = normal(16, 32, dtype=torch.bfloat16), normal(16, 32, seed=1, dtype=torch.bfloat16)
    target = teacher_distribution(b, torch.zeros(32), 0.04)
    for loss in (negative_cosine, lambda x, y: soft_cross_entropy(x, target, 0.1)):
        assert loss(a, b).dtype == torch.float32
        torch.testing.assert_close(loss(a, b), loss(a.float(), b.float()))
