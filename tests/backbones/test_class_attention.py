"""Where class tokens look, against attention that is written out, and on a network that was told where to look."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.backbones import build_backbone
from glocal.backbones.class_attention import class_attention
from glocal.errors import UsageError
from glocal.report.visuals import Photograph, attention_maps


def images():
    return torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64))).float()


def naive(weight_q, bias_q, weight_k, bias_k, x, heads):
    """Softmax of the first token's query by all keys, head by head."""
    found = []
    q, k = x[:, 0] @ weight_q.T + bias_q, x @ weight_k.T + bias_k
    for part in torch.arange(q.shape[-1]).chunk(heads):
        scores = torch.einsum("bd,bnd->bn", q[:, part], k[..., part]) / len(part) ** 0.5
        found.append(scores.softmax(-1))
    return torch.stack(found, dim=1)


@pytest.mark.parametrize(("name", "prefix"), [("vit_small_patch14_reg4_dinov2", 5), ("xcit_nano_12_p16_224", 1)])
def test_it_is_the_softmax_of_the_class_tokens_query(name, prefix):
    torch.manual_seed(0)
    encoder = build_backbone(name, image_size=56 if "14" in name else 64).eval()
    encoder.model.blocks = encoder.model.blocks[:2]
    pixels, seen = images()[:, :, :56, :56] if "14" in name else images(), []
    last = encoder.model.blocks[-1].attn if "vit" in name else encoder.model.cls_attn_blocks[-1].attn
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    found = class_attention(encoder, pixels)
    if "vit" in name:
        (wq, wk, _), (bq, bk, _) = last.qkv.weight.chunk(3), last.qkv.bias.chunk(3)
    else:
        wq, wk, bq, bk = last.q.weight, last.k.weight, last.q.bias, last.k.bias
    expected = naive(wq, bq, wk, bk, seen[0], last.num_heads)
    assert found.shape == (2, last.num_heads, 4, 4)
    torch.testing.assert_close(found.flatten(2), expected[:, :, prefix:])
    assert (found.sum((2, 3)) < 1).all()


@pytest.mark.parametrize("name", ["test_resnet", "vit_pwee_patch16_reg1_gap_256", "resmlp_12_224"])
def test_without_a_class_token_there_is_none(name):
    with pytest.raises(UsageError, match=f"{name} has no class token that attends"):
        class_attention(build_backbone(name, image_size=64), images())


def test_a_map_is_light_where_the_class_token_looks():
    torch.manual_seed(0)
    encoder = build_backbone("test_vit", image_size=64).eval()
    half = np.full((64, 64, 3), 200, np.uint8)
    half[:, 32:] = 100

    def to_the_left(encoder, pixels):
        weights = torch.zeros(1, 2, 4, 4)
        weights[..., :2] = 0.5
        return weights

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glocal.report.visuals.class_attention", to_the_left)
        (shown,) = attention_maps(encoder, [Photograph(Image.fromarray(half), "half", None)], size=64)
    lit = np.asarray(shown)[:, :, 0]
    assert (lit[:, :24] == 200).all()
    assert (lit[:, 40:] == 15).all()
