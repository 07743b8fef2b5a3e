"""The clustering methods' pass over all images: on an accelerator, pretended where there is none."""

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.methods.bank import bank_features
from glocal.methods.deepcluster import DeepCluster
from glocal.methods.deepcluster_v2 import DeepClusterV2
from glocal.methods.deepercluster import DeeperCluster
from glocal.views import Appearance, PlainImages, Recipe, ViewLoader
from pretended import pretended

IMAGES = 24
METHODS = {
    DeepCluster: {"clusters": 4, "components": 3},
    DeeperCluster: {"clusters": 6, "super_clusters": 2, "components": 3},
    DeepClusterV2: {"prototypes": 4, "small_crops": 0, "projector": (16, 8)},
}


def build(cls, device="cpu"):
    torch.manual_seed(0)
    method = cls(build_backbone("test_resnet", image_size=32), image_size=32, **METHODS[cls])
    loader = ViewLoader(open_source(f"parts:n={IMAGES},size=40"), Recipe(()), batch_size=10, seed=0)
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0)
    bank = PlainImages(loader, 32, appearance, device=torch.device(device))
    return method.to(device), bank


@pytest.mark.parametrize("cls", METHODS)
def test_an_epoch_planned_on_the_device_is_the_cpus(cls):
    method, bank = build(cls)
    plan = method.before_epoch(bank)
    with pretended():
        method, bank = build(cls, "cuda:0")
        there = method.before_epoch(bank)
    assert torch.equal(plan.targets, there.targets)
    assert plan.order is None or torch.equal(plan.order, there.order)


def test_features_of_all_images_are_in_main_memory_as_precise_as_they_were_computed():
    method, bank = build(DeepCluster)
    exact_ids, exact = bank_features(method, bank, lambda pixels: method.encoder(pixels).pooled)
    with pretended() as device:
        method, bank = build(DeepCluster, "cuda:0")
        with torch.autocast("cuda", torch.bfloat16):
            ids, features = bank_features(method, bank, lambda pixels: method.encoder(pixels).pooled)
        assert device.dtypes["convolution"] == {torch.bfloat16}
    assert exact.dtype == torch.float32
    assert (features.dtype, features.device.type, len(features)) == (torch.bfloat16, "cpu", IMAGES)
    assert torch.equal(ids, exact_ids)
    torch.testing.assert_close(features.float(), exact, rtol=0.1, atol=0.1)
