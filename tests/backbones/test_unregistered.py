"""A backbone that is not registered goes by module:function."""

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.backbones.receptive_field import receptive_field
from glocal.errors import UsageError

NAME = "replications.thin_resnet:thin_rf79"


def test_it_is_built_by_where_it_is():
    backbone = build_backbone(NAME, image_size=96, pool="mean")
    assert backbone.name == NAME
    assert receptive_field(backbone).size == 79
    assert backbone(torch.zeros(1, 3, 96, 96)).dense.shape == (1, 256, 12, 12)
    assert receptive_field(build_backbone("replications.thin_resnet:thin_rf195")).size == 195


@pytest.mark.parametrize("name", ["replications.thin_resnet:fat", "no.such.module:thin", "json:"])
def test_a_place_without_one_is_one_line(name):
    with pytest.raises(UsageError, match="no backbone at"):
        build_backbone(name)
