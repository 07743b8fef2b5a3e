"""Computed receptive fields against the support of the gradient in the very networks."""

import math
import re

import pytest
import torch
from torch import nn

from glocal.backbones import build_backbone
from glocal.backbones.receptive_field import EffectiveField, ReceptiveField, effective_receptive_field, receptive_field
from glocal.errors import UsageError

ROWS = [  # name, size, stride, offset
    ("rf427_resnet50", 427, 32, 0.5),
    ("rf363_resnet50", 363, 16, 0.5),
    ("rf99_resnet50", 99, 4, 0.5),
    ("co_resnet50_rf99", 99, 16, 0.5),
    ("co_resnet18_rf29", 29, 4, 0.5),
    ("bagnet9", 9, 8, 4.5),
    ("bagnet17", 17, 8, 8.5),
    ("bagnet33", 33, 8, 16.5),
    ("rf435_resnet18", 435, 32, 0.5),
    ("rf109_resnet18", 109, 8, 0.5),
    ("rf899_resnet34", 899, 32, 0.5),
]
OTHERS = [
    ("resnet50", 427, 32, 0.5),
    ("regnetx_002", 543, 32, 0.5),
    ("convnext_atto", 1136, 32, 16.0),
    ("resnetaa50", 453, 32, 15.5),  # blurs where it strides
    ("resnet18d", 439, 32, 0.5),  # pools in its shortcuts
    ("mobilenetv2_035", 491, 32, 0.5),
]


def transparent(backbone):
    """The same windows, one channel wide, positive throughout in float64: nothing cancels, and every ReLU passes."""
    for module in list(backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.MaxPool2d):
                setattr(module, name, nn.AvgPool2d(child.kernel_size, child.stride, child.padding))
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, nn.Identity())
            if isinstance(child, nn.Conv2d):
                window = child.kernel_size, child.stride, child.padding, child.dilation
                setattr(module, name, nn.Conv2d(3 if child.in_channels == 3 else 1, 1, *window, bias=False))
    for parameter in backbone.parameters():
        nn.init.constant_(parameter, 1.0 if parameter.ndim == 1 else 1 / parameter[0].numel())
    return backbone.double().eval()


def support(backbone, height, width, column):
    """First and last pixel, along x, that moves a cell of the map's top row."""
    image = torch.ones(1, 3, height, width, dtype=torch.float64, requires_grad=True)
    dense = backbone.forward_tensors(image)[1]
    (gradient,) = torch.autograd.grad(dense[0, :, 0, column].sum(), image)
    pixels = gradient.sum((0, 1, 2)).nonzero()[:, 0]
    return pixels[0].item(), pixels[-1].item()


@pytest.mark.parametrize(("name", "size", "stride", "offset"), ROWS)
@pytest.mark.usefixtures("undrawn", "thin")
def test_the_gradient_has_the_computed_support(name, size, stride, offset):
    backbone = transparent(build_backbone(name))
    field = receptive_field(backbone)
    assert field == ReceptiveField(size, stride, offset) == ReceptiveField(field.size, backbone.stride, backbone.offset)
    assert re.findall(r"(?:rf|bagnet)(\d+)", name) == [str(field.size)]
    column = math.ceil((size / 2 - offset) / stride) + 1  # the first whose square has pixels to its left
    first, last = support(backbone, 40, size + 4 * stride, column)
    centre = offset + stride * column
    assert (first, last + 1) == (centre - size / 2, centre + size / 2)
    assert 0 < first < last < size + 4 * stride - 1


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(("name", "size", "stride", "offset"), OTHERS)
def test_timms_networks_as_the_recurrence_has_them(name, size, stride, offset):
    backbone = build_backbone(name)
    assert receptive_field(backbone) == ReceptiveField(size, stride, offset)
    assert (backbone.stride, backbone.offset) == (stride, offset)


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("options", [{"stem": "cifar"}, {"output_stride": 16}, {"output_stride": 8}])
def test_options_of_the_backbone_count(options):
    backbone = transparent(build_backbone("resnet18", **options))
    field = receptive_field(backbone)
    column = math.ceil(field.size / 2 / field.stride) + 1
    first, last = support(backbone, 32, field.size + 128, column)
    assert last - first + 1 == field.size
    assert (first + last + 1) / 2 == field.offset + field.stride * column


@pytest.mark.usefixtures("undrawn", "thin")
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("regnety_002", "a cell sees the whole image"),
        ("test_vit", "a cell sees the whole image"),
        ("convnextv2_atto", "a cell sees the whole image"),
        ("mixer_s32_224", "made for 224 px"),
    ],
)
def test_what_sees_the_whole_image_is_one_clear_error(name, why):
    with pytest.raises(UsageError, match=f"{name} has no receptive field.*{why}.*choose a convolutional") as raised:
        receptive_field(build_backbone(name))
    assert "\n" not in str(raised.value)


def test_groupnorm_looks_at_the_whole_image():
    backbone = build_backbone("test_resnet")
    backbone.model.bn1 = nn.GroupNorm(4, backbone.model.bn1.num_features)
    with pytest.raises(UsageError, match="sees the whole image"):
        receptive_field(backbone)


def test_computing_it_leaves_the_backbone_as_it_was():
    backbone = build_backbone("test_resnet").train()
    backbone.model.layer1.eval()
    keys = list(backbone.state_dict())
    receptive_field(backbone)
    assert backbone.model.training
    assert not backbone.model.layer1.training
    assert list(backbone.state_dict()) == keys


class OneLayer(nn.Module):
    """Channel c of each cell is the sum of a window of side 2c + 1 about its pixel, with alternating signs."""

    name = "one layer"

    def forward_tensors(self, x):
        maps = [(-1) ** c * nn.functional.avg_pool2d(x, 2 * c + 1, 1, c).sum(1, keepdim=True) for c in range(2)]
        return x.mean((2, 3)), torch.cat(maps, 1)

    def cells(self, height, width):
        grid = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
        return torch.stack(grid[::-1], -1)


def test_the_effective_field_of_windows_is_their_mean():
    field = effective_receptive_field(OneLayer(), torch.randn(2, 3, 8, 10))
    expected = torch.zeros(8, 10, dtype=torch.float64)
    expected[3:6, 4:7] += 0.5 / 9
    expected[4, 5] += 0.5
    torch.testing.assert_close(field.map, expected, atol=1e-7, rtol=1e-6)
    assert field.center == (5.5, 4.5)
    assert field.radius(0.5) == 0
    assert field.radius(0.7) == 1
    assert field.radius(0.999) == pytest.approx(math.sqrt(2))


def test_the_radius_holds_its_share():
    flat = EffectiveField(torch.full((101, 101), 1 / 101**2, dtype=torch.float64), (50.5, 50.5))
    assert flat.radius(0.5) == pytest.approx(math.sqrt(0.5 * 101**2 / math.pi), rel=0.01)


def test_the_effective_field_lies_within_the_receptive_field():
    torch.manual_seed(0)
    backbone = build_backbone("bagnet17").train()
    images = torch.randn(2, 3, 64, 64)
    field = effective_receptive_field(backbone, images, channels=4)
    x, y = field.center
    assert backbone.training
    assert images.grad is None
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert field.map.sum().item() == pytest.approx(1)
    inside = field.map[int(y - 8.5) : int(y + 8.5), int(x - 8.5) : int(x + 8.5)]
    assert inside.sum().item() == pytest.approx(1)
    assert 0 < field.radius(0.5) < field.radius(0.9) < 8.5 * math.sqrt(2)


@pytest.mark.usefixtures("undrawn")
def test_nothing_to_measure_on_is_told():
    backbone = build_backbone("bagnet9")
    with pytest.raises(UsageError, match="give at least one"):
        effective_receptive_field(backbone, torch.zeros(0, 3, 64, 64))
    for parameter in backbone.parameters():
        nn.init.zeros_(parameter)
    with pytest.raises(UsageError, match="does not depend"):
        effective_receptive_field(backbone, torch.zeros(1, 3, 32, 32), channels=1)


@pytest.mark.parametrize("channels", [0, -2])
def test_no_channels_are_not_the_networks_fault(channels):
    with pytest.raises(UsageError, match=f"channels is {channels}; .* one at least"):
        effective_receptive_field(OneLayer(), torch.randn(1, 3, 8, 10), channels=channels)
