"""ViT-22B's block against a plain statement of it, its size against the paper's, less memory, several devices."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.distributed.fsdp import FullyShardedDataParallel

from glocal.backbones import build_backbone
from glocal.backbones.details import count_flops
from glocal.backbones.sharding import block_policy
from glocal.errors import UsageError
from processes import on_processes

WIDTH, HEADS = 192, 3


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    made = build_backbone("vit22b_tiny", image_size=64)
    made.model.blocks = made.model.blocks[:2]
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return made.eval()


def plain(block, x):
    """x + Attention(LN x) + MLP(LN x), each with matrices of its own, cut from the fused ones."""
    norm = lambda z, layer: layer.weight * z / (z.square().mean(-1, keepdim=True) + layer.eps).sqrt()  # "without bias
    y = norm(x, block.in_norm)  # and centering"
    up, q, k, v = (y @ part.T for part in block.in_proj.weight.split([4 * WIDTH, WIDTH, WIDTH, WIDTH]))
    heads = lambda z: z.unflatten(2, (HEADS, -1)).transpose(1, 2)
    q, k = norm(heads(q), block.q_norm), norm(heads(k), block.k_norm)
    attended = (q @ k.mT / math.sqrt(WIDTH // HEADS)).softmax(-1) @ heads(v)
    of_attention, of_mlp = block.out_proj.weight.split([WIDTH, 4 * WIDTH], dim=1)
    attention = attended.transpose(1, 2).flatten(2) @ of_attention.T
    return x + attention + F.gelu(up + block.mlp_bias) @ of_mlp.T + block.out_proj.bias


def test_the_fused_block_is_the_unfused_one(encoder):
    block = encoder.model.blocks[0].double()
    x = torch.randn(2, 17, WIDTH, dtype=torch.float64)
    torch.testing.assert_close(block(x), plain(block, x), rtol=1e-6, atol=1e-9)
    block.float()


def test_the_size_of_queries_does_not_matter(encoder):
    block, x = encoder.model.blocks[1].double(), torch.randn(2, 17, WIDTH, dtype=torch.float64)
    before = block(x)
    with torch.no_grad():
        block.in_proj.weight[4 * WIDTH : 5 * WIDTH] *= 1000
        after = block(x)
        block.in_proj.weight[4 * WIDTH : 5 * WIDTH] /= 1000
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-6)
    block.float()


def test_only_what_should_has_a_bias(encoder):
    names = {name for name, _ in encoder.model.blocks[0].named_parameters() if "bias" in name}
    assert names == {"mlp_bias", "out_proj.bias"}


def test_the_large_one_has_the_papers_parameters():
    with torch.device("meta"):
        encoder = build_backbone("vit22b_22b")
        flops = count_flops(encoder)
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    assert abs(parameters / 21.743e9 - 1) < 0.01  # table 1
    assert (encoder.dim, encoder.stride, encoder.norm) == (6144, 14, "layer")
    matrices = 48 * 6144 * (2 * 24_576 + 4 * 6144) + 3 * 14**2 * 6144
    assert flops == 2 * 256 * matrices + 48 * 4 * 256**2 * 6144  # 256 tokens; queries by keys, weights by values


def saved_bytes(encoder, images):
    """What the forward pass keeps for gradients, and the gradients."""
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda x: kept.append(x.numel()) or x, lambda x: x):
        total = encoder(images).pooled.sum()
    gradients = torch.autograd.grad(total, list(encoder.parameters()))
    return sum(kept), gradients


@pytest.mark.parametrize("name", ["vit22b_tiny", "test_resnet", "navit_tiny"])
def test_what_is_computed_again_gives_the_same_gradients_from_less(name):
    torch.manual_seed(0)
    encoder, images = build_backbone(name, image_size=64).train(), torch.randn(2, 3, 64, 64)
    whole, expected = saved_bytes(encoder, images)
    encoder.recompute_blocks()
    less, found = saved_bytes(encoder, images)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))
    assert less < whole / 2


def test_what_has_no_blocks_is_not_computed_again():
    with pytest.raises(UsageError, match="sobel_alexnet has no blocks"):
        build_backbone("sobel_alexnet").recompute_blocks()
    with pytest.raises(UsageError, match="no blocks to spread"):
        block_policy(nn.Linear(1, 1))


def sharded() -> int:
    """Units of a small network whose features are those of one process."""
    torch.manual_seed(0)
    encoder = build_backbone("replications.networks:vit22b_w64_p4", image_size=32)
    images = torch.randn(2, 3, 32, 32)
    expected = encoder(images).pooled.detach()
    model = FullyShardedDataParallel(
        encoder.model, auto_wrap_policy=block_policy(encoder.model), device_id=torch.device("cpu")
    )
    units = sum(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    found = model(images)
    found.sum().backward()
    torch.testing.assert_close(found, expected)
    return units


def test_it_is_spread_over_processes_block_by_block():
    assert on_processes(2, sharded) == [5, 5]  # four blocks and the rest
