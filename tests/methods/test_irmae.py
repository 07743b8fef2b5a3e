"""IRMAE: one matrix in the end, its loss against naive numbers, and codes whose rank falls."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from glocal.backbones import build_backbone
from glocal.backbones.fold import fold
from glocal.methods import IRMAE
from glocal.views import Batch, View

SIZE = 16


def build(**options) -> IRMAE:
    torch.manual_seed(0)
    return IRMAE(build_backbone("conv_coder", image_size=SIZE), image_size=SIZE, **{"code": 6, "layers": 3, **options})


def batch_of(images=5):
    pixels = torch.from_numpy(np.random.default_rng(1).standard_normal((images, 3, SIZE, SIZE)))
    return Batch([View(pixels, torch.zeros(images, 2, 3))], torch.arange(images))


@pytest.mark.parity("irmae", oracle="naive float64 loops")
@pytest.mark.parametrize("kl", [0.0, 0.1])
def test_the_loss_is_the_mean_square_error_of_the_images_and_the_divergence(kl) -> None:
    method = build(kl=kl, layers=0 if kl else 3).double()
    batch = batch_of()
    torch.manual_seed(2)
    loss = method(batch)
    torch.manual_seed(2)
    total = 0.0
    codes = method.encoder(batch.views[0].pixels).pooled
    spread = method.log_variance(codes) if kl else None
    noise = torch.randn_like(codes) if kl else None
    for i, x in enumerate(batch.views[0].pixels):
        code = codes[i]
        if kl:
            for m, v in zip(codes[i], spread[i], strict=True):
                total += kl * (m**2 + v.exp() - 1 - v).item() / 2 / x.numel() / 5
            code = code + (spread[i] / 2).exp() * noise[i]
        total += (method.codes.decode(code[None])[0] - (x * 0.5 + 0.5)).square().mean().item() / 5
    assert loss.total.item() == pytest.approx(total)
    loss.total.backward()
    assert all(p.grad is not None for p in method.parameters())


def test_the_layers_behind_the_code_fold_into_one_matrix() -> None:
    method = build().double().eval()
    x = batch_of().views[0].pixels
    before = method.encoder(x)
    weight = method.encoder.model.code.parametrizations.weight
    stack = nn.Sequential(*(nn.Linear(6, 6, bias=False).double() for _ in range(3)))
    for here, there in zip(stack, weight[0].layers, strict=True):
        here.weight = there.weight
    pooled = method.encoder.model.forward_head(method.encoder.model.forward_features(x), pre_logits=True)
    torch.testing.assert_close(before.pooled, stack(pooled @ weight.original.T), rtol=1e-6, atol=1e-12)
    fold(method)
    after = method.encoder(x)
    assert torch.equal(after.pooled, before.pooled)
    assert torch.equal(after.tokens, before.tokens)
    assert [name for name, _ in method.encoder.model.code.named_parameters()] == ["weight"]
    again = build_backbone(**method.encoder.config).double().eval()
    again.load_state_dict(method.encoder.state_dict())
    assert torch.equal(again(x).pooled, after.pooled)
    assert again.dim == 6


def test_a_few_layers_find_fewer_dimensions_than_none() -> None:
    """Four numbers, 64 ways to see them, and a code of 32: plain and with four layers, as the paper's idea has it."""
    from glocal.backbones.fold import Product
    from glocal.evaluation.rank import rankme

    draw = np.random.default_rng(3)
    factors = torch.from_numpy(draw.standard_normal((512, 4))).float()
    x = torch.tanh(factors @ torch.from_numpy(draw.standard_normal((4, 64))).float() / 2)
    found = {}
    for layers in (0, 4):
        torch.manual_seed(0)
        first, decode = nn.Linear(64, 32, bias=False), nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64))
        encode, product = nn.Sequential(nn.Linear(64, 64), nn.ReLU()), Product(32, layers)
        parts = nn.ModuleList([first, decode, encode, product])
        optimizer = torch.optim.AdamW(parts.parameters(), lr=3e-3, weight_decay=0.0)
        for _ in range(200):
            codes = encode(x) @ product(first.weight).T
            (decode(codes) - x).square().mean().backward()
            optimizer.step()
            optimizer.zero_grad()
        found[layers] = rankme(codes, centred=True)
    assert found[4] < 0.75 * found[0]
    assert found[4] == pytest.approx(4, abs=1.5)


def test_the_generator_draws_codes_like_those_it_has_seen() -> None:
    method = build(layers=0).double()
    batch = batch_of(40)
    for _ in range(5):
        method(batch)
    codes = method.encoder(batch.views[0].pixels).pooled.detach()
    generator = method.generator
    torch.testing.assert_close(generator.mean, codes.mean(0))
    torch.testing.assert_close(generator.factor @ generator.factor.T, codes.T.cov(correction=0))
    torch.testing.assert_close(generator(torch.zeros(1, 6).double()), generator.decode(codes.mean(0)[None]))
