"""NaViT: packed, a photograph is what it is alone, and what timm's NaFlexVit makes of it with the same weights."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import nn

from glocal.adaptation.layers import depths
from glocal.backbones import build_backbone, navit as room
from glocal.backbones.navit import NaViT
from glocal.errors import UsageError
from glocal.views import Packing, pack

GRIDS = [(3, 5), (5, 3), (1, 9), (4, 4), (7, 2), (3, 5), (1, 1)]
DYADIC = [(4, 8), (8, 4), (2, 16), (4, 4), (1, 32), (8, 8)]  # where timm's interpolation, in float32, is exact


def images(grids, dtype):
    draw = np.random.default_rng(0)
    return [torch.from_numpy(draw.normal(size=(3, 8 * h, 8 * w))).to(dtype) for h, w in grids]


def network(dtype):
    torch.manual_seed(0)
    model = NaViT(24, 3, depth=2).to(dtype)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or "bias" in name:
                parameter.add_(torch.randn_like(parameter) / 4)
            elif "positions" in name:
                parameter.copy_(torch.randn_like(parameter).mul(64).round() / 64)
    return model


def packed(photographs, dtype, tokens=80):
    made = pack([x.float() for x in photographs], Packing(8, tokens))
    flat = [x.unflatten(2, (-1, 8)).unflatten(1, (-1, 8)).permute(1, 3, 2, 4, 0).flatten(0, 1) for x in photographs]
    made.patches = made.patches.to(dtype)
    for i, x in enumerate(flat):  # pack gives float32
        made.patches[made.image == i] = x.flatten(1)
    return made


def gradients(model, *outputs):
    """Of a sum of outputs that weighs each number differently."""
    draw = np.random.default_rng(1)
    total = sum((x * torch.from_numpy(draw.normal(size=tuple(x.shape))).to(x)).sum() for x in outputs)
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(total, [*model.parameters()]), strict=True))


def by_image(tokens, made):
    return [tokens[made.image == i] for i in range(len(made))]


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-5), (torch.float64, 1e-12)])
def test_packed_is_each_photograph_alone(dtype, close):
    model, photographs = network(dtype), images(GRIDS, dtype)
    made = packed(photographs, dtype)
    assert len(made.image) > 1
    tokens, pooled = model.forward_packed(made)
    alone = [model.forward_features(x[None]) for x in photographs]
    heads = torch.cat([model.forward_head(x) for x in alone])
    torch.testing.assert_close(pooled, heads, rtol=0, atol=close)
    for mine, theirs in zip(by_image(tokens, made), alone, strict=True):
        torch.testing.assert_close(mine, theirs[0], rtol=0, atol=close)
    assert not tokens[made.image < 0].any()
    ours = gradients(model, *by_image(tokens, made), pooled)
    theirs = gradients(model, *(x[0] for x in alone), heads)
    for name, gradient in ours.items():
        torch.testing.assert_close(gradient, theirs[name], rtol=close, atol=30 * close)


def timms(model: NaViT) -> NaFlexVit:
    """timm's network with the same weights; it has no absolute positions, and a query of its own making."""
    norm = partial(nn.LayerNorm, bias=False, eps=1e-6)
    cfg = NaFlexVitCfg(patch_size=8, embed_dim=24, depth=2, num_heads=3, qk_norm=True, reg_tokens=0, norm_layer=norm)
    cfg.qkv_bias = False
    cfg.pos_embed, cfg.pos_embed_grid_size, cfg.global_pool = "factorized", (16, 16), "map"
    other = NaFlexVit(cfg, num_classes=0).to(model.embed.weight.dtype)
    ours = {
        name.replace("embed.", "embeds.proj.", 1).replace("pool.", "attn_pool."): value
        for name, value in model.state_dict().items()
        if not name.startswith("positions") and name != "pool.query"
    }
    query = model.pool.query.detach().flatten()
    ours |= {f"embeds.pos_embed_{axis}": model.positions.fraction[i].detach()[None] for i, axis in enumerate("xy")}
    ours |= {"attn_pool.latent": query[None, None], "attn_pool.q.weight": torch.eye(24).to(query)}
    ours |= {f"attn_pool.{name}.bias": torch.zeros(n).to(query) for name, n in (("q", 24), ("kv", 48))}
    other.load_state_dict(ours)
    return other


@pytest.mark.parametrize(("dtype", "grids", "close"), [(torch.float32, GRIDS, 1e-5), (torch.float64, DYADIC, 1e-12)])
def test_packed_is_timms_network_on_padded_photographs(dtype, grids, close):
    model, photographs = network(dtype), images(grids, dtype)
    for table in model.positions.absolute:
        nn.init.zeros_(table)
    made = packed(photographs, dtype)
    tokens, pooled = model.forward_packed(made)
    longest = max(h * w for h, w in grids)
    batch = {
        "patches": torch.zeros(len(grids), longest, 192, dtype=dtype),
        "patch_coord": torch.zeros(len(grids), longest, 2, dtype=torch.int64),
        "patch_valid": torch.zeros(len(grids), longest, dtype=torch.bool),
    }
    for i, (h, w) in enumerate(grids):
        batch["patches"][i, : h * w] = made.patches[made.image == i]
        batch["patch_coord"][i, : h * w] = torch.tensor([(y, x) for y in range(h) for x in range(w)])
        batch["patch_valid"][i, : h * w] = True
    other = timms(model)
    theirs = other.forward_features(**batch)
    heads = other.forward_head(**theirs, pre_logits=True)
    theirs = [x[: h * w] for x, (h, w) in zip(theirs["patches"], grids, strict=True)]
    torch.testing.assert_close(pooled, heads, rtol=close, atol=close)
    for mine, its in zip(by_image(tokens, made), theirs, strict=True):
        torch.testing.assert_close(mine, its, rtol=close, atol=close)
    ours, its = gradients(model, *by_image(tokens, made), pooled), gradients(other, *theirs, heads)
    same = {
        name: name.replace("embed.", "embeds.proj.", 1).replace("pool.", "attn_pool.")
        for name in ours
        if not name.startswith("positions") and name != "pool.query"
    }
    for mine, its_name in same.items():
        torch.testing.assert_close(ours[mine], its[its_name], rtol=close, atol=30 * close)
    torch.testing.assert_close(ours["pool.query"].flatten(), its["attn_pool.latent"].flatten(), rtol=1e-4, atol=1e-4)
    for i, axis in enumerate("xy"):  # which timm sums in float32
        torch.testing.assert_close(
            ours[f"positions.fraction.{i}"], its[f"embeds.pos_embed_{axis}"][0], rtol=1e-4, atol=1e-4
        )


def test_absolute_positions_are_numbers_of_patches():
    model = network(torch.float64)
    for table in model.positions.fraction:
        nn.init.zeros_(table)
    at = torch.tensor([[3, 1], [63, 0], [200, 70]])
    found = model.positions(at, (300, 90))
    x, y = model.positions.absolute
    assert torch.equal(found, x[[3, 63, 63]] + y[[1, 0, 63]])


def test_the_kernel_for_rows_of_different_lengths_gives_the_same(monkeypatch):
    def kernel(q, k, v, ends_q, ends_k, longest_q, longest_k):
        assert ends_q.dtype == ends_k.dtype == torch.int32
        assert (longest_q, longest_k) == (int(ends_q.diff().max()), int(ends_k.diff().max()))
        parts = []
        for i in range(len(ends_q) - 1):
            mine, its = slice(*ends_q[i : i + 2].tolist()), slice(*ends_k[i : i + 2].tolist())
            scores = torch.einsum("qhd,khd->hqk", q[mine], k[its]) / q.shape[-1] ** 0.5
            parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[its]))
        return torch.cat(parts)

    model, made = network(torch.float64), packed(images(GRIDS, torch.float64), torch.float64)
    expected = model.forward_packed(made)
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", kernel)
    monkeypatch.setattr(room, "takes_lengths", lambda q: True)
    torch.testing.assert_close(model.forward_packed(made), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("cuda", "dtype", "capability", "kernel"), [
    (True, torch.bfloat16, (8, 0), True), (True, torch.float16, (9, 0), True), (True, torch.float16, (7, 5), False),
    (True, torch.float32, (9, 0), False), (False, torch.bfloat16, (9, 0), False),
])  # fmt: skip
def test_that_kernel_is_for_half_precision_on_recent_gpus(cuda, dtype, capability, kernel, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert room.takes_lengths(SimpleNamespace(is_cuda=cuda, dtype=dtype, device="cuda")) == kernel


@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernel for rows of different lengths is CUDA's")
def test_that_kernel_gives_what_equal_lengths_give():
    model = network(torch.float32).cuda()
    made = packed(images(GRIDS, torch.float32), torch.float32).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        tokens, pooled = model.forward_packed(made)
    expected_tokens, expected = model.forward_packed(made)
    torch.testing.assert_close(pooled.float(), expected, rtol=0.05, atol=0.05)
    torch.testing.assert_close(tokens.float(), expected_tokens, rtol=0.05, atol=0.1)
    pooled.float().square().sum().backward()
    assert all(bool(p.grad.isfinite().all()) for p in model.parameters() if p.grad is not None)


def test_patches_that_are_left_out_are_not_seen():
    model, photographs = network(torch.float32), images(GRIDS[:4], torch.float32)
    kept = [np.array([0, 2, 5]), np.array([1]), np.arange(9), np.array([3, 15])]
    before = pack(photographs, Packing(8, 16), kept)
    for photograph, numbers, (h, w) in zip(photographs, kept, GRIDS, strict=False):
        for n in set(range(h * w)) - set(numbers.tolist()):
            photograph[:, 8 * (n // w) :][:, :8, 8 * (n % w) :][..., :8] = 99.0
    _, pooled = model.forward_packed(before)
    again = model.forward_packed(pack(photographs, Packing(8, 16), kept))
    assert torch.equal(pooled, again[1])
    alone = model.forward_packed(pack(photographs[3:], Packing(8, 16), kept[3:]))
    torch.testing.assert_close(pooled[3], alone[1][0])


def test_a_packed_batch_answers_image_by_image():
    backbone, photographs = build_backbone("navit_tiny").eval(), images(GRIDS[:4], torch.float32)
    with torch.no_grad():
        for pool in ("native", "mean"):
            backbone.pool = pool
            features = backbone(pack(photographs, Packing(8, 24)))
            alone = [backbone(x[None]) for x in photographs]
            torch.testing.assert_close(features.pooled, torch.cat([x.pooled for x in alone]), rtol=1e-4, atol=1e-4)
    for (tokens, places, grid), one in zip(features.per_image(), alone, strict=True):
        ((its_tokens, its_places, its_grid),) = one.per_image()
        torch.testing.assert_close(tokens, its_tokens, rtol=1e-4, atol=1e-4)
        assert torch.equal(places, its_places)
        assert grid == its_grid == one.grid
    with pytest.raises(ValueError, match="per_image"):
        _ = features.dense
    dropped = backbone(pack(photographs[:1], Packing(8, 24), [np.array([1, 4])]))
    assert dropped.per_image()[0][2] is None
    assert dropped.per_image()[0][1].tolist() == [[12, 4], [36, 4]]


def test_what_a_packed_batch_cannot_be_is_said():
    photographs = [torch.zeros(3, 16, 32)]
    backbone = build_backbone("navit_tiny")
    with pytest.raises(UsageError, match=r"one shape only.*navit"):
        build_backbone("test_vit")(pack(photographs, Packing(8, 99)))
    with pytest.raises(UsageError, match="leave out kept"):
        backbone(pack(photographs, Packing(8, 99)), torch.tensor([0]))
    with pytest.raises(UsageError, match="takes patches of 8 px, not of 16"):
        backbone(pack(photographs, Packing(16, 99)))


@pytest.mark.parametrize(("asked", "made"), [(8, 16), (13, 16), (100, 96), (128, 128), (None, 128)])
def test_squares_are_of_whole_patches_whatever_is_asked_for(asked, made):
    backbone = build_backbone("replications.networks:navit_w64_p8", image_size=asked)
    assert (backbone.image_size, backbone.stride, backbone.offset) == (made, 8, 4.0)
    assert backbone.refusal(made) is None
    assert backbone.config["image_size"] == asked


def test_its_layers_are_told_apart():
    far = depths(build_backbone("replications.networks:navit_w64_p8"))
    found = [far[f"blocks.{k}.attn.qkv.weight"] for k in range(4)]
    assert far["embed.weight"] == far["positions.absolute.0"] == 1
    assert sorted(set(far.values()), reverse=True) == [1, *found]
    assert far["norm.weight"] == far["pool.query"] == far["blocks.3.norm1.weight"] == 0
