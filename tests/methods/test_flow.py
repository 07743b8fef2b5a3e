"""Guided flow: its loss against naive numbers, where clusters come from, what is kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glocal.backbones import build_backbone
from glocal.data import ArraySource
from glocal.errors import UsageError
from glocal.heads.clusters import OwnClusters
from glocal.losses import sinkhorn
from glocal.methods import Flow
from glocal.views import Appearance, Batch, PlainImages, Recipe, View, ViewLoader

SIZE = 16


def build(**options) -> Flow:
    torch.manual_seed(0)
    method = Flow(build_backbone("unet_tiny", image_size=SIZE), image_size=SIZE, **options)
    for weight in method.field.parameters():  # some begin at zero
        torch.nn.init.normal_(weight, std=0.1)
    return method


def batch_of(views=1, target=None, dtype=torch.float64):
    draw = np.random.default_rng(1)
    pixels = [torch.from_numpy(draw.standard_normal((6, 3, SIZE, SIZE))).to(dtype) for _ in range(views)]
    batch = Batch([View(x, torch.zeros(6, 2, 3)) for x in pixels], torch.arange(6))
    batch.target = target
    return batch


def images_of(labels=None):
    """20 images, dark and light ones in turn."""
    pixels = np.random.default_rng(2).integers(0, 255, (20, 20, 20, 3), np.uint8)
    pixels[::2] //= 4
    return ArraySource(pixels, labels)


def bank_of(method):
    loader = ViewLoader(images_of(), Recipe(()), batch_size=5, seed=0)
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0)
    return PlainImages(loader, SIZE, appearance, device=torch.device("cpu"))


@pytest.mark.parity("flow", oracle="naive float64 loops")
def test_the_loss_is_the_mean_square_of_what_is_left_of_noise_less_image() -> None:
    method = build(guide="timm:test_resnet:random", clusters=4, dropped=0.3).double()
    target = torch.tensor([[0], [1], [2], [3], [1], [-1]])
    batch = batch_of(target=target)
    torch.manual_seed(3)
    loss = method(batch)
    loss.total.backward()
    ours = {name: p.grad.clone() for name, p in method.field.named_parameters()}
    torch.manual_seed(3)
    time, noise, told = method.draw(batch.views[0].pixels)
    method.zero_grad()
    errors = []
    for x, t, e, u, c in zip(batch.views[0].pixels, time, noise, told, target.flatten(), strict=True):
        known = c >= 0 and u >= 0.3
        velocity = method.field((x + t * (e - x))[None], t[None], c[None] if known else None)
        errors.append((velocity[0] - (e - x)).square().mean())
    naive = torch.stack(errors).mean()
    naive.backward()
    assert 0 < int((told < 0.3).sum()) < 6  # both kinds are there
    torch.testing.assert_close(loss.total, naive)
    torch.testing.assert_close(ours, {name: p.grad for name, p in method.field.named_parameters()})
    assert method.counts.tolist() == [1, 2, 1, 1]


def test_nothing_guides_it_by_default() -> None:
    method = build()
    assert method.field.clusters is None
    assert method.before_epoch(bank_of(method)).targets is None
    assert list(method(batch_of(dtype=torch.float32)).terms) == ["velocity"]
    assert method.generator.frequencies.shape == (0,)


def test_an_encoders_clusters_are_made_once_and_tell_light_from_dark() -> None:
    method = build(guide="timm:test_resnet:random", clusters=2)
    bank = bank_of(method)
    plan = method.before_epoch(bank)
    (first, second) = (plan.targets[0, k::2] for k in (0, 1))
    assert len(first.unique()) == len(second.unique()) == 1
    assert first[0] != second[0]
    bank.plan = plan
    assert method.before_epoch(bank) is plan
    with pytest.raises(UsageError, match="21 of 20 images"):
        build(guide="timm:test_resnet:random", clusters=21).check(images_of())


def test_labels_are_read_and_too_many_of_them_refused() -> None:
    labels = np.arange(20) % 3
    method = build(guide="labels", clusters=5)
    method.check(images_of(labels))
    batch = batch_of(dtype=torch.float32)
    batch.label = torch.tensor([0, 1, 2, 0, 0, -1])
    method(batch)
    assert method.counts.tolist() == [3, 1, 1, 0, 0]
    with pytest.raises(UsageError, match="give --clusters 3"):
        build(guide="labels", clusters=2).check(images_of(labels))
    with pytest.raises(UsageError, match="have none"):
        method.check(images_of())


def test_own_clusters_are_balanced_and_each_view_predicts_the_others() -> None:
    torch.manual_seed(0)
    own = OwnClusters(8, 4, temperature=0.1, epsilon=0.05).double().eval()
    a, b = torch.from_numpy(np.random.default_rng(4).standard_normal((2, 40, 8)))
    cluster, loss = own(a, b)
    scores = [F.normalize(own.projector(x), dim=1) @ own.prototypes.weight.T for x in (a, b)]
    codes = [sinkhorn(s.detach()) for s in scores]
    naive = [-(q * torch.log_softmax(s / 0.1, 1)).sum(1).mean() for q, s in zip(codes, reversed(scores), strict=True)]
    torch.testing.assert_close(loss, sum(naive) / 2)
    assert torch.equal(cluster, codes[0].argmax(1))
    shares = sinkhorn(scores[0].detach(), 0.05, 100).mean(0)
    torch.testing.assert_close(shares, torch.full_like(shares, 1 / 4), rtol=0.01, atol=0)


def test_own_clusters_send_no_gradient_through_the_condition_and_reach_the_counts() -> None:
    method = build(guide="own", clusters=3)
    loss = method(batch_of(views=2, dtype=torch.float32))
    assert set(loss.terms) == {"velocity", "clusters"}
    assert int(method.counts.sum()) == 6
    loss.total.backward()
    assert all(p.grad is not None for p in method.parameters() if p.requires_grad)


def test_what_is_kept_and_drawn_with_is_the_moving_average() -> None:
    method = build(guide="labels", clusters=3, ema=0.75)
    old = [p.clone() for p in method.average.parameters()]
    with torch.no_grad():
        for p in method.field.parameters():
            p.add_(1.0)
    new = [p.clone() for p in method.field.parameters()]
    method.after_step(0.5)
    for now, before, target in zip(method.average.parameters(), old, new, strict=True):
        torch.testing.assert_close(now, 0.75 * before + 0.25 * target)
    assert method.encoder is method.average.backbone
    made = method.generator.field.state_dict()
    assert all(torch.equal(made[name], value) for name, value in method.average.state_dict().items())
