"""Exponential moving averages: what moves, what does not."""

import pytest
import torch
from timm.layers import DropPath
from torch import nn

from glocal.methods.teacher import cosine, ema_copy, update_ema


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), DropPath(0.5), nn.Dropout(0.5)).double()


def pair():
    student = network()
    teacher = ema_copy(student)
    for p in student.parameters():
        nn.init.normal_(p)
    student(torch.randn(8, 3, dtype=torch.float64))  # moves the running statistics
    return teacher, student


def test_a_teacher_is_its_student_without_gradient_or_chance():
    student = network()
    teacher = ema_copy(student)
    x = torch.randn(8, 3, dtype=torch.float64)
    assert not any(p.requires_grad for p in teacher.parameters())
    assert torch.equal(teacher(x), student[:2](x))
    assert all(p.requires_grad for p in student.parameters())


def test_parameters_move_by_the_formula():
    teacher, student = pair()
    before = [p.clone() for p in teacher.parameters()]
    update_ema(teacher, student, 0.9)
    for old, new, target in zip(before, teacher.parameters(), student.parameters(), strict=True):
        torch.testing.assert_close(new, 0.9 * old + 0.1 * target, rtol=1e-12, atol=1e-12)


def test_momentum_one_leaves_it_and_zero_copies_to_the_bit():
    teacher, student = pair()
    before = [p.clone() for p in teacher.parameters()]
    update_ema(teacher, student, 1.0)
    assert all(map(torch.equal, teacher.parameters(), before))
    update_ema(teacher, student, 0.0)
    assert all(map(torch.equal, teacher.parameters(), student.parameters()))


def test_running_statistics_are_the_teachers_own():
    teacher, student = pair()
    before = teacher[1].running_mean.clone()
    assert not torch.equal(before, student[1].running_mean)
    update_ema(teacher, student, 0.75)
    assert torch.equal(teacher[1].running_mean, before)
    assert teacher[1].num_batches_tracked == 0


def test_cosine():
    assert [cosine(p, 0.99, 1.0) for p in (0.0, 0.5, 1.0)] == pytest.approx([0.99, 0.995, 1.0])
    assert cosine(0.25, 0.99, 1.0) == pytest.approx(1 - 0.01 * (1 + 2**-0.5) / 2)
