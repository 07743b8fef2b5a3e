"""The map before the last halving: which it is, where its cells look, and that it is built again."""

import numpy as np
import pytest
import torch

from glocal.backbones import build_backbone

IMAGE = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 3, 64, 64))).float()


@pytest.mark.parametrize(
    ("name", "module", "stride", "offset"),
    [
        ("test_resnet", "layer3", None, 0.5),
        ("test_convnext", "stages.2", None, 8.0),
        ("mobilenet_v1_025", "layers.22", 8, None),  # by dilation the two maps have the same cells
    ],
)
def test_it_is_that_of_the_last_block_before_the_last_halving(name, module, stride, offset):
    encoder = build_backbone(name, image_size=64, output_stride=stride).eval()
    view, wanted = encoder.earlier(), []
    encoder.model.get_submodule(module).register_forward_hook(lambda module, inputs, output: wanted.append(output))
    with torch.no_grad():
        found, plain = view(IMAGE), encoder(IMAGE)
    assert torch.equal(found.dense, wanted[0])
    assert torch.equal(found.pooled, plain.pooled)
    assert (view.map_dim, encoder.map_dim) == (wanted[0].shape[1], encoder.dim)
    assert view.stride == 64 // wanted[0].shape[-1] == (stride or encoder.stride // 2)
    assert view.offset == (offset or encoder.offset)
    assert plain.tokens.shape[2] == encoder.dim, "it stays as it was"
    again = build_backbone(**view.config).eval()
    again.load_state_dict(view.state_dict())
    assert again.earlier() is again
    with torch.no_grad():
        assert torch.equal(again(IMAGE).tokens, found.tokens)


def test_a_transformer_keeps_its_map():
    encoder = build_backbone("test_vit", image_size=64)
    assert encoder.earlier() is encoder
