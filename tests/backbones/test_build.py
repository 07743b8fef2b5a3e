import pytest
import timm
import torch

from glocal.backbones import build_backbone, list_backbones
from glocal.errors import UsageError


def test_the_tag_of_the_weights_is_part_of_the_name():
    backbone = build_backbone("resnet18.a1_in1k")
    assert backbone.name == "resnet18.a1_in1k"


def test_an_unknown_name_gets_the_nearest_ones():
    with pytest.raises(UsageError, match=r"unknown backbone 'resnet81'; did you mean .*resnet18"):
        build_backbone("resnet81")
    with pytest.raises(UsageError, match=r"unknown weights 'nope' of resnet18; timm has resnet18.a1_in1k"):
        build_backbone("resnet18.nope")


def test_list_backbones_takes_a_part_or_a_pattern():
    assert "vit_tiny_patch16_224" in list_backbones("vit_tiny")
    assert list_backbones("resnet5*")
    assert all(name.startswith("resnet5") for name in list_backbones("resnet5*"))
    assert {"resnet18", "convnext_atto"} <= set(list_backbones())


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({}, 2),
        ({"output_stride": 16}, 4),
        ({"output_stride": 8}, 8),
        ({"stem": "cifar"}, 8),
        ({"stem": "cifar", "output_stride": 2}, 32),
    ],
)
def test_strides_are_those_of_real_pixels(options, side):
    backbone = build_backbone("resnet18", **options).eval()
    assert backbone.stride == 64 // side
    with torch.no_grad():
        assert backbone(torch.zeros(1, 3, 64, 64)).grid == (side, side)
    if "stem" not in options:  # dilation changes no weight
        reference = timm.create_model("resnet18", num_classes=0)
        assert {k: v.shape for k, v in backbone.model.state_dict().items()} == {
            k: v.shape for k, v in reference.state_dict().items()
        }


def test_the_cifar_stem_is_a_plain_convolution():
    backbone = build_backbone("resnet18", stem="cifar")
    conv = backbone.model.conv1
    assert (conv.kernel_size, conv.stride, conv.padding, conv.bias) == ((3, 3), (1, 1), (1, 1), None)
    assert conv.weight.std().item() == pytest.approx((2 / (64 * 9)) ** 0.5, rel=0.1)  # He initialisation, fan out


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("vit_tiny_patch16_224", {"output_stride": 16}, "vit_tiny_patch16_224 has no output_stride"),
        ("resnet18", {"output_stride": 4}, r"choose one of \[8, 16, 32\]"),
        ("resnet18", {"output_stride": 32, "stem": "cifar"}, r"choose one of \[2, 4, 8\]"),
        ("convnext_atto", {"stem": "cifar"}, "no ResNet stem"),
        ("resnet18d", {"stem": "cifar"}, "no ResNet stem"),
        ("resnet18", {"stem": "imagenet"}, "unknown stem"),
        ("vgg11", {"drop_path": 0.1}, "vgg11 has no drop_path"),
        ("resnet18", {"pool": "cls"}, "no class token"),
        ("resnet18", {"pool": "max"}, "unknown pool"),
        ("vit_tiny_patch16_224", {"pretrained": "nowhere.pth"}, "no weights at nowhere.pth"),
        ("test_nothing", {}, "unknown backbone"),
        ("pit_ti_224", {}, "pit_ti_224 does not give one feature per location"),
        ("crossvit_tiny_240", {}, "crossvit_tiny_240 does not give one feature per location"),
        ("nf_regnet_b0", {"pretrained": True}, "no pretrained weights for nf_regnet_b0"),
    ],
)
def test_a_mistake_is_told_in_one_line(name, options, message):
    with pytest.raises(UsageError, match=message) as raised:
        build_backbone(name, **options)
    assert "\n" not in str(raised.value)


def test_without_a_network_pretrained_weights_are_one_clear_error(monkeypatch, tmp_path):
    constants = pytest.importorskip("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"could not be downloaded.*pretrained=PATH") as raised:
        build_backbone("resnet18", pretrained=True)
    assert "\n" not in str(raised.value)


def test_drop_path_reaches_the_deepest_block():
    backbone = build_backbone("convnext_atto", drop_path=0.2)
    rates = [module.drop_prob for module in backbone.modules() if type(module).__name__ == "DropPath"]
    assert rates[-1] == pytest.approx(0.2)
    assert sorted(rates) == rates
    assert backbone.config["drop_path"] == 0.2


def test_image_size_sets_a_vits_positions():
    backbone = build_backbone("vit_tiny_patch16_224", image_size=96)
    assert backbone.image_size == 96
    assert backbone.model.pos_embed.shape == (1, 1 + 36, 192)
    assert build_backbone("resnet18", image_size=64).image_size == 64
    assert build_backbone("resnet18").image_size == 224


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"stem": "cifar", "output_stride": 4, "pool": "mean", "drop_path": 0.1}),
        ("vit_tiny_patch16_224", {"image_size": 64, "pool": "cls"}),
    ],
)
def test_the_config_rebuilds_the_backbone(name, options):
    torch.manual_seed(0)
    backbone = build_backbone(name, **options)
    torch.manual_seed(0)
    again = build_backbone(**backbone.config)
    assert again.config == backbone.config
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(backbone.eval()(image).tokens, again.eval()(image).tokens)
    backbone.pool = "mean"
    assert backbone.config["pool"] == "mean"
