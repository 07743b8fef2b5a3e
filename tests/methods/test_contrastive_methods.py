"""SimCLR, DCL, DCLW, DirectCLR, NNCLR and Barlow Twins as modules: what enters their losses, and that they learn."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.losses import (
    barlow_twins_loss,
    contrast,
    dcl,
    decoupled_contrast,
    info_nce,
    mises_fisher_weights,
)
from glocal.methods import DCL, DCLW, NNCLR, BarlowTwins, DirectCLR, SimCLR, method_class, resolve_options
from glocal.training.optimizers import build_optimizer
from glocal.views import Batch, View, two_views

METHODS = {
    "simclr": {"projector": (16, 8)},
    "dcl": {"projector": (16, 8)},
    "dclw": {"projector": (16, 8)},
    "directclr": {},
    "nnclr": {"projector": (16, 8), "predictor": (16,), "queue": 20},
    "barlow_twins": {"projector": (16, 8)},
}


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone("test_resnet", image_size=32)


def batch(images=4, size=32):
    views = [torch.randn(images, 3, size, size, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)]
    return Batch([View(v, torch.eye(2, 3).repeat(images, 1, 1)) for v in views], torch.arange(images))


@pytest.mark.parametrize(
    ("cls", "loss"),
    [
        (SimCLR, lambda a, b: info_nce(a, b, 0.1)),
        (DCL, lambda a, b: dcl(a, b, 0.1)),
        (DCLW, lambda a, b: dcl(a, b, 0.1, mises_fisher_weights(a, b, 0.5))),
    ],
)
def test_simclr_and_its_kin_forward_both_views_together(backbone, cls, loss):
    method, views = cls(backbone, projector=(16, 8)), batch()
    pooled = backbone(torch.cat([v.pixels for v in views.views])).pooled
    torch.testing.assert_close(method(views).total, loss(*method.projector(pooled).chunk(2)))


def test_directclr_contrasts_the_first_channels_between_views(backbone):
    method, views = DirectCLR(backbone, fraction=0.25), batch()
    kept = round(0.25 * backbone.dim)
    a, b = (backbone(v.pixels).pooled[:, :kept] for v in views.views)
    torch.testing.assert_close(method(views).total, (contrast(a, b, 0.1) + contrast(b, a, 0.1)) / 2)
    a, b = a[:, 1:], b[:, 1:]
    assert not torch.allclose(method(views).total, (contrast(a, b, 0.1) + contrast(b, a, 0.1)) / 2)


def test_directclr_keeps_the_published_360_of_2048(backbone):
    backbone.dim = 2048
    assert DirectCLR(backbone).channels == 360
    assert DirectCLR(backbone).recipe == two_views(224)
    with pytest.raises(UsageError, match="fraction"):
        DirectCLR(backbone, fraction=0.0)


@pytest.mark.parametrize("decoupled", [False, True])
def test_nnclr_predicts_one_view_from_the_neighbours_of_the_other(backbone, decoupled):
    method, views = NNCLR(backbone, **METHODS["nnclr"], decoupled=decoupled), batch()
    z = [method.projector(backbone(v.pixels).pooled) for v in views.views]
    queue = method.queue.embeddings.clone()
    near = [queue[F.cosine_similarity(x[:, None], queue[None], dim=2).argmax(1)] for x in z]
    predicted = [method.predictor(x) for x in z]
    loss = decoupled_contrast if decoupled else contrast
    expected = (loss(near[0], predicted[1], 0.1) + loss(near[1], predicted[0], 0.1)) / 2
    torch.testing.assert_close(method(views).total, expected)
    torch.testing.assert_close(method.queue.embeddings[:4], F.normalize(z[0].detach()))  # the first view enters


def cross_entropy(queries, keys, temperature, *, decoupled):
    """Of finding the i-th key with the i-th query, number by number; decoupled: the i-th is not among the others."""
    losses = []
    for i, query in enumerate(queries):
        scores = [query @ key / query.norm() / key.norm() / temperature for key in keys]
        others = [score for j, score in enumerate(scores) if j != i or not decoupled]
        losses.append(torch.stack(others).exp().sum().log() - scores[i])
    return torch.stack(losses).mean()


@pytest.mark.parity("directclr", "nnclr", oracle="naive float64 loops")
@pytest.mark.parametrize(("name", "decoupled"), [("directclr", False), ("nnclr", False), ("nnclr", True)])
def test_each_direction_is_the_papers_cross_entropy(backbone, name, decoupled):
    options = METHODS[name] | ({"decoupled": decoupled} if name == "nnclr" else {"fraction": 0.25})
    method, views = method_class(name)(backbone, **options).double(), batch()
    pooled = []
    for view in views.views:
        view.pixels = view.pixels.double()
        pooled.append(backbone(view.pixels).pooled)
    if name == "directclr":
        pairs = [[x[:, : round(0.25 * backbone.dim)] for x in two] for two in (pooled, pooled[::-1])]
    else:
        z, queue = [method.projector(x) for x in pooled], method.queue.embeddings.clone()
        near = [torch.stack([queue[int((queue @ row).argmax())] for row in x]) for x in z]
        pairs = [(near[0], method.predictor(z[1])), (near[1], method.predictor(z[0]))]
    expected = sum(cross_entropy(*pair, 0.1, decoupled=decoupled) for pair in pairs) / 2
    loss = method(views).total
    torch.testing.assert_close(loss, expected)
    for a, b in zip(
        *(torch.autograd.grad(total, list(method.parameters())) for total in (loss, expected)), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_barlow_twins_forwards_each_view_alone(backbone):
    method, views = BarlowTwins(backbone, projector=(16, 8), redundancy_weight=0.3), batch()
    z = [method.projector(backbone(v.pixels).pooled) for v in views.views]
    torch.testing.assert_close(method(views).total, barlow_twins_loss(*z, redundancy_weight=0.3).total)


def test_barlow_twins_has_a_learning_rate_for_biases_and_norms(backbone):
    method = BarlowTwins(backbone, projector=(16, 8))
    groups = build_optimizer(method, method.optimization, 1.0).param_groups
    assert {group["params"][0].ndim > 1: group["lr_share"] for group in groups} == {True: 1.0, False: 0.0048 / 0.2}


@pytest.mark.parametrize("name", METHODS)
def test_every_parameter_learns_at_batch_16_in_bf16(backbone, name):
    method = method_class(name)(backbone, **METHODS[name])
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    losses = []
    for _ in range(6):  # the same batch: NNCLR's queue then holds it
        with torch.autocast("cpu", torch.bfloat16):
            loss = method(batch(16)).total
        optimizer.zero_grad()
        loss.backward()
        assert [name for name, p in method.named_parameters() if p.grad is None or not p.grad.isfinite().all()] == []
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[1]


@pytest.mark.parametrize("name", METHODS)
def test_presets_are_options(name):
    cls = method_class(name)
    assert "arXiv" in cls.paper
    for preset in cls.presets:
        for size in (16, 64, 4096):
            resolve_options(cls, preset, size, {})
