"""LARS against a loop written from the paper; the schedule against its closed form."""

from __future__ import annotations

import math

import torch
from torch import nn

from glocal.methods import Optimization
from glocal.training import LARS
from glocal.training.optimizers import build_optimizer, warmup_cosine


def test_lars_is_the_papers_update():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3, bias=False)).double()
    spec = Optimization("lars", lr=0.3, weight_decay=0.1, momentum=0.8, trust=0.02)
    optimizer = build_optimizer(module, spec, lr=0.3)
    assert isinstance(optimizer, LARS)
    naive = {name: (p.detach().clone(), torch.zeros_like(p)) for name, p in module.named_parameters()}
    for _ in range(4):
        module.zero_grad()
        module(torch.randn(7, 5, dtype=torch.float64)).square().sum().backward()
        for name, p in module.named_parameters():
            w, v = naive[name]
            d = p.grad.clone()
            if w.ndim > 1:
                d = d + 0.1 * w
                d = d * 0.02 * math.sqrt(float((w * w).sum())) / math.sqrt(float((d * d).sum()))
            v = 0.8 * v + d
            naive[name] = (w - 0.3 * v, v)
        optimizer.step()
        for name, p in module.named_parameters():
            torch.testing.assert_close(p.detach(), naive[name][0], rtol=1e-12, atol=1e-12)


def test_lars_leaves_a_zero_weight_and_a_zero_gradient_unscaled():
    w = nn.Parameter(torch.zeros(2, 2))
    optimizer = LARS([w], lr=1.0, momentum=0.0)
    w.grad = torch.full((2, 2), 2.0)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), -2.0))
    w.grad = torch.zeros(2, 2)
    optimizer.step()
    torch.testing.assert_close(w.detach(), torch.full((2, 2), -2.0))


def test_parameters_of_one_dimension_do_not_decay():
    module = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for name in ("adamw", "sgd", "lars"):
        groups = build_optimizer(module, Optimization(name, lr=1.0, weight_decay=0.5), lr=0.1).param_groups
        decays = {group["weight_decay"]: {p.ndim for p in group["params"]} for group in groups}
        assert decays == {0.5: {2}, 0.0: {1}}


def test_schedule():
    values = [warmup_cosine(step, 100, 10, 0.01) for step in range(101)]
    assert values[0] > 0
    assert values[:11] == sorted(values[:11])
    assert values[10] == 1.0
    assert values[10:] == sorted(values[10:], reverse=True)
    assert math.isclose(values[55], 0.01 + 0.99 / 2)
    assert math.isclose(values[100], 0.01)
