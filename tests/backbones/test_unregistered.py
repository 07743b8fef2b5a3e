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
    with pytest.raises(UsageError, match="no backbone at"):
        build_backbone(name)
