"""timm's blocks against what the papers of XCiT and ResMLP write, as einsums in float64."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from timm.models.mlp_mixer import ResBlock
from timm.models.xcit import XCA

WIDTH, HEADS, TOKENS = 12, 3, 10


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def filled(module):
    """In float64, each parameter with other numbers."""
    module = module.double().eval()
    with torch.no_grad():
        for k, parameter in enumerate(module.parameters()):
            parameter.copy_(numbers(*parameter.shape, seed=k) / 2)
    return module


def cross_covariance_attention(layer, x):
    """El-Nouby et al. 2021, equation 2: softmax over channels of the covariance of unit channels."""
    q, k, v = (x @ w.T + b for w, b in zip(layer.qkv.weight.chunk(3), layer.qkv.bias.chunk(3), strict=True))
    q, k, v = (z.reshape(*z.shape[:2], HEADS, -1) for z in (q, k, v))  # (B, N, h, d)
    q, k = (z / z.square().sum(1, keepdim=True).sqrt() for z in (q, k))
    similar = torch.einsum("bnhi,bnhj->bhij", q, k) * layer.temperature
    out = torch.einsum("bhij,bnhj->bnhi", similar.softmax(-1), v).flatten(2)
    return out @ layer.proj.weight.T + layer.proj.bias


def test_xca_is_attention_between_channels():
    layer, x = filled(XCA(WIDTH, HEADS, qkv_bias=True)), numbers(2, TOKENS, WIDTH)
    torch.testing.assert_close(layer(x), cross_covariance_attention(layer, x), rtol=1e-12, atol=1e-12)


def test_xca_goes_with_the_order_of_tokens_and_not_with_the_size_of_queries():
    layer, x = filled(XCA(WIDTH, HEADS, qkv_bias=True)), numbers(2, TOKENS, WIDTH)
    order = torch.from_numpy(np.random.default_rng(1).permutation(TOKENS))
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=1e-12, atol=1e-12)
    before = layer(x)
    with torch.no_grad():
        layer.qkv.weight[:WIDTH] *= 7
        layer.qkv.bias[:WIDTH] *= 7
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)


def test_a_block_of_resmlp_is_two_products():
    """Touvron et al. 2021, equations 2 and 3."""
    block, x = filled(ResBlock(WIDTH, TOKENS)), numbers(2, TOKENS, WIDTH)
    affine = lambda norm, z: norm.alpha * z + norm.beta
    across, (up, down) = block.linear_tokens, (block.mlp_channels.fc1, block.mlp_channels.fc2)
    mixed = torch.einsum("mn,bnd->bmd", across.weight, affine(block.norm1, x)) + across.bias[:, None]
    z = x + block.ls1 * mixed
    hidden = F.gelu(torch.einsum("bnd,hd->bnh", affine(block.norm2, z), up.weight) + up.bias)
    expected = z + block.ls2 * (torch.einsum("bnh,dh->bnd", hidden, down.weight) + down.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
