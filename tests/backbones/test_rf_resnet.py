"""Networks with a chosen receptive field, behind the one door. Their fields are tested in diagnostics."""

import pytest
import torch
from torch import nn

from glocal.backbones import Backbone, build_backbone, list_backbones, load_encoder, save_encoder
from glocal.backbones.receptive_field import receptive_field
from glocal.backbones.rf_resnet import co_resnet
from glocal.backbones.weights import load_weights
from glocal.errors import UsageError


def wrap(model):
    return Backbone(model, {"name": "resnet50", "image_size": 224, "pool": "mean", "pretrained": False})


def count(backbone):
    return sum(parameter.numel() for parameter in backbone.parameters())


@pytest.fixture(scope="module")
def standard():
    return build_backbone("resnet50")


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize(("name", "fewer"), [("rf235_resnet50", 0), ("rf119_resnet50", 0), ("rf99_resnet50", 7680)])
def test_parameters_are_those_of_the_standard_network(standard, name, fewer):
    backbone = build_backbone(name)
    assert count(standard) - count(backbone) == fewer == 64 * 3 * (49 - 9) * (fewer > 0)
    load_weights(backbone.model, standard.model.state_dict(), origin="resnet50", minimum=0.99)


def test_parameters_are_those_of_the_paper():
    """23.7 million; ours 23.75."""
    with torch.device("meta"):
        assert count(build_backbone("co_resnet50_rf99")) == 23_749_696


@pytest.mark.usefixtures("thin")
def test_the_field_does_not_depend_on_the_number_of_blocks_from_two_on():
    fields = [receptive_field(wrap(co_resnet(50, layers=layers))).size for layers in ((2, 2, 2, 2), (3, 8, 6, 3))]
    assert fields == [99, 99]


@pytest.mark.usefixtures("thin")
def test_the_standard_strides_are_the_standard_network():
    torch.manual_seed(0)
    ours, theirs = build_backbone("rf435_resnet18"), build_backbone("resnet18")
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 64, 64)
    assert torch.equal(ours.eval()(image).tokens, theirs.eval()(image).tokens)


@pytest.mark.usefixtures("thin")
def test_the_cifar_row_is_the_cifar_stem():
    ours, theirs = build_backbone("rf109_resnet18"), build_backbone("resnet18", stem="cifar")
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 32, 32)
    assert torch.equal(ours.eval()(image).tokens, theirs.eval()(image).tokens)


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize("name", ["co_resnet18_rf29", "bagnet9"])  # the former is an rf_resnet, too
def test_saved_and_opened_again(name, tmp_path):
    backbone = build_backbone(name, pool="mean", drop_path=0.1, image_size=64).eval()
    save_encoder(backbone, tmp_path)
    again = load_encoder(tmp_path)
    image = torch.randn(1, 3, 48, 48)
    assert again.config == backbone.config
    assert again.image_size == 64
    assert torch.equal(again(image).tokens, backbone(image).tokens)
    assert [info["reduction"] for info in again.model.feature_info][-1] == backbone.stride


def test_a_bagnets_cell_is_its_patch_alone():
    torch.manual_seed(0)
    backbone = (
        build_backbone("bagnet17").eval().double()
    )  # in float32 how far two sums differ is the processor's choice
    for module in backbone.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)  # the branches that are zero at first
    image = torch.rand(1, 3, 41, 57, dtype=torch.float64)
    dense = backbone(image).dense
    assert dense.shape[2:] == (4, 6)
    x, y = (int(c - 8.5) for c in backbone.cells(4, 6)[2, 3])
    patch = backbone.model.forward_features(image[:, :, y : y + 17, x : x + 17])
    assert patch.shape[2:] == (1, 1)
    torch.testing.assert_close(patch[0, :, 0, 0], dense[0, :, 2, 3])


@pytest.mark.usefixtures("undrawn")
def test_the_authors_bagnet_weights_fit():
    backbone = build_backbone("bagnet9")
    theirs = {"module." + key: torch.randn_like(value.float()) for key, value in backbone.model.state_dict().items()}
    theirs["module.conv1.weight"] = theirs.pop("module.conv1.0.weight")
    theirs["module.conv2.weight"] = theirs.pop("module.conv1.1.weight")
    load_weights(backbone.model, theirs, origin="bagnet9", minimum=1.0)
    assert torch.equal(backbone.model.conv1[1].weight, theirs["module.conv2.weight"])


def test_they_are_listed_beside_timms():
    assert {"bagnet9", "bagnet17", "bagnet33"} == set(list_backbones("bagnet"))
    assert {"rf99_resnet50", "resnet50"} <= set(list_backbones("resnet50"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("rf98_resnet50", {}, "did you mean .*rf99_resnet50"),
        ("rf109_resnet18", {"stem": "cifar"}, "rf109_resnet18 comes with a stem of its own; leave out stem"),
        ("rf109_resnet18", {"output_stride": 8}, "rf109_resnet18 has no output_stride; leave it out"),
        ("rf109_resnet18", {"pretrained": True}, "no pretrained weights for rf109_resnet18"),
    ],
)
def test_a_mistake_is_told_in_one_line(name, options, message):
    with pytest.raises(UsageError, match=message) as raised:
        build_backbone(name, **options)
    assert "\n" not in str(raised.value)
