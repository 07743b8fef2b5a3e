"""A backbone that is not registered goes by module:function."""

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.backbones.receptive_field import receptive_field
from glocal.errors import UsageError

NAME = "replications.networks:rn8_w16_s8"


def test_it_is_built_by_where_it_is():
    backbone = build_backbone(NAME, image_size=96, pool="mean")
    assert backbone.name == NAME
    assert receptive_field(backbone).size == 79
    assert backbone(torch.zeros(1, 3, 96, 96)).dense.shape == (1, 128, 12, 12)
    assert receptive_field(build_backbone("replications.networks:rn8_w24_s16")).size == 95


@pytest.mark.parametrize("name", ["replications.networks:fat", "no.such.module:thin", "json:"])
def test_a_place_without_one_is_one_line(name):
    with pytest.raises(UsageError, match=f"backbone '{name}'"):
        build_backbone(name)


NET = """
import timm
from torch import nn


class Net(nn.Module):
    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.25,) * 3}

    def __init__(self):  # knows nothing of num_classes
        super().__init__()
        self.body = nn.Conv2d(3, 8, 4, stride=4)

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x, pre_logits=True):
        return x.mean((2, 3))
"""


def test_the_least_that_makes_a_backbone(module_here):
    module_here(NET)
    backbone = build_backbone("mine:Net")
    assert (backbone.dim, backbone.stride, backbone.image_size, backbone.mean) == (8, 4, 32, (0.5, 0.5, 0.5))
    with pytest.raises(UsageError, match="mine:Net has no drop_path; leave it out"):
        build_backbone("mine:Net", drop_path=0.1)


@pytest.mark.parametrize(
    ("right", "wrong", "lacks"),
    [
        ("forward_features", "features", "forward_features"),
        ("forward_head", "head", "forward_head"),
        ("pretrained_cfg", "config", "pretrained_cfg"),
        ('"std"', '"sd"', "pretrained_cfg['std']"),
    ],
)
def test_a_breach_is_told_to_the_author(module_here, right, wrong, lacks):
    assert right in NET
    module_here(NET.replace(right, wrong))
    with pytest.raises(UsageError) as error:
        build_backbone("mine:Net")
    assert str(error.value) == f"backbone 'mine:Net': `Net` lacks `{lacks}` (see docs/architecture.md)"
