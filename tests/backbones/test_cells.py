"""Where cells look, against the support of their gradient in the very networks."""

import pytest
import torch
from torch import nn

from glocal.backbones import build_backbone
from glocal.backbones.cells import Step, grid_positions, locate, trace


def transparent(backbone):
    """The same network with every operation linear and positive: no part of the gradient vanishes or cancels."""

    def walk(module):
        for name, child in module.named_children():
            kind = type(child).__name__
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            elif ("Norm" in kind and hasattr(child, "weight")) or kind in ("ReLU", "GELU", "SiLU", "SEModule"):
                setattr(module, name, nn.Identity())
            else:
                walk(child)

    walk(backbone.model)
    for parameter in backbone.model.parameters():
        nn.init.constant_(parameter, 1.0 if parameter.ndim == 1 else 1 / parameter[0].numel())
    return backbone.double().eval()


def support(dense, image, row, column):
    """First and last pixel, along x, that moves the cell."""
    (gradient,) = torch.autograd.grad(dense[:, :, row, column].sum(), image, retain_graph=True)
    pixels = gradient.abs().sum((0, 1, 2)).nonzero()[:, 0]
    return pixels[0].item(), pixels[-1].item()


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(
    ("name", "options", "width", "expected"),
    [
        ("resnet18", {}, 640, (32, 0.5)),
        ("resnet18", {}, 659, (32, 0.5)),  # not a multiple of the stride
        ("resnet18", {"output_stride": 16}, 640, (16, 0.5)),
        ("resnet18", {"output_stride": 8}, 640, (8, 0.5)),
        ("resnet18", {"stem": "cifar"}, 192, (8, 0.5)),
        ("resnet50", {}, 576, (32, 0.5)),
        ("resnetaa50", {}, 640, (32, 15.5)),  # average-pooled on the way
        ("regnety_002", {}, 704, (32, 0.5)),
        ("poolformer_s12", {}, 640, (32, 1.5)),  # 7×7 stem of stride 4, padding 2
        ("convnext_atto", {}, 1408, (32, 16.0)),
        ("convnext_atto", {}, 1420, (32, 16.0)),
        ("convnext_atto", {"output_stride": 16}, 1408, (16, 16.0)),  # a 2×2 convolution that no longer strides
        ("convnext_atto", {"output_stride": 8}, 1408, (8, 8.0)),
        ("resnet18d", {"output_stride": 16}, 640, (16, 0.5)),  # a 2×2 pooling in the shortcut
    ],
)
def test_cells_are_the_midpoints_of_their_gradients_support(name, options, width, expected):
    backbone = transparent(build_backbone(name, **options, pool="mean"))
    assert (backbone.stride, backbone.offset) == expected
    image = torch.ones(1, 3, 32, width, dtype=torch.float64, requires_grad=True)
    _, dense = backbone.forward_tensors(image)
    cells = backbone.cells(*dense.shape[2:])
    for column in (dense.shape[3] // 2, dense.shape[3] // 2 + 1):
        first, last = support(dense, image, 0, column)
        assert 0 < first < last < width - 1, "the image is too small for this test"
        assert (first + last + 1) / 2 == cells[0, column, 0]


@pytest.mark.usefixtures("thin")
def test_a_quarter_turn_of_the_image_swaps_x_and_y():
    backbone = transparent(build_backbone("resnet18", stem="cifar"))
    image = torch.ones(1, 3, 192, 32, dtype=torch.float64, requires_grad=True)
    dense = backbone.forward_tensors(image)[1]
    (gradient,) = torch.autograd.grad(dense[:, :, 11, 1].sum(), image)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()[:, 0]
    assert (rows[0] + rows[-1] + 1) / 2 == backbone.cells(24, 4)[11, 1, 1]


@pytest.mark.parametrize(("name", "offset"), [("vit_tiny_patch16_224", 8.0), ("xcit_nano_12_p16_224", 0.5)])
def test_attention_starts_from_patches_centred_on_their_cells(name, offset):
    backbone = transparent(build_backbone(name, image_size=160))
    assert (backbone.stride, backbone.offset) == (16, offset)
    image = torch.ones(1, 3, 160, 160, dtype=torch.float64, requires_grad=True)
    tokens = backbone.model.patch_embed(image)
    if isinstance(tokens, tuple):  # XCiT's also gives the grid
        tokens = tokens[0]
    dense = tokens.reshape(1, 10, 10, -1).permute(0, 3, 1, 2)
    first, last = support(dense, image, 4, 5)
    assert (first + last + 1) / 2 == backbone.cells(10, 10)[4, 5, 0] == offset + 16 * 5


@pytest.mark.parametrize(
    ("name", "stride", "offset"),
    [
        ("tf_efficientnet_b0", 32, 31.5),  # TensorFlow's padding stands after an even image
        ("pvt_v2_b0", 32, 0.5),  # its attention subsamples keys on the side
        ("resnetv2_50x1_bit", 32, 0.5),  # pads in a module of its own
        ("swin_tiny_patch4_window7_224", 32, 16.0),  # merges patches by reshaping
    ],
)
def test_unusual_downsampling(name, stride, offset):
    with torch.device("meta"):
        backbone = build_backbone(name)
    assert (backbone.stride, backbone.offset) == (stride, offset)


def test_a_shortcut_is_not_the_trunk():
    trunk = Step(size_in=8, size_out=4, kernel=3, stride=2, padding=1, dilation=1)
    shortcut = Step(size_in=8, size_out=4, kernel=1, stride=2, padding=0, dilation=1)
    assert locate([trunk, shortcut], 8, 4) == locate([shortcut, trunk], 8, 4) == (2, 0.5)
    even = Step(size_in=8, size_out=4, kernel=2, stride=2, padding=0, dilation=1)
    assert locate([shortcut, even], 8, 4) == (2, 1.0)


def test_a_trunk_that_does_not_arrive_is_taken_as_uniform():
    assert locate([Step(64, 16, 4, 4, 0, 1)], 64, 4) == (16, 8.0)


def test_a_trunk_that_leaves_the_image_is_taken_as_uniform():
    assert locate([Step(8, 4, kernel=3, stride=2, padding=9, dilation=1)], 8, 4) == (2, 1.0)


def test_positions_are_x_then_y():
    grid = grid_positions(2, 3, offset=0.5, stride=8)
    assert grid.tolist() == [[[0.5, 0.5], [8.5, 0.5], [16.5, 0.5]], [[0.5, 8.5], [8.5, 8.5], [16.5, 8.5]]]


@pytest.mark.usefixtures("thin")
def test_tracing_leaves_the_model_as_it_was():
    backbone = build_backbone("resnet18").train()
    backbone.model.layer1.eval()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    trace(backbone.model, torch.randn(1, 3, 64, 64))
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
    assert backbone.model.training
    assert not backbone.model.layer1.training
    assert not any(module._forward_hooks for module in backbone.modules())
