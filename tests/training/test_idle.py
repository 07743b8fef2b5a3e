"""Parameters that nothing trains are found, and do not stop several processes."""

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.methods import VICReg
from glocal.training.optimizers import idle_parameters
from processes import run


@pytest.mark.parametrize(
    ("name", "pool", "expected"),
    [
        ("mobilenetv3_small_050", "native", {"conv_head.weight", "conv_head.bias"}),
        ("test_resnet", "native", set()),
        ("test_vit", "mean", set()),
        ("vit_tiny_patch16_224", "native", set()),
        ("xcit_nano_12_p16_224", "native", set()),
    ],
)
def test_the_layers_that_no_feature_depends_on(name, pool, expected):
    method = VICReg(build_backbone(name, image_size=64, pool=pool), image_size=64, projector=(8, 8))
    before = {key: value.clone() for key, value in method.state_dict().items()}
    assert set(idle_parameters(method)) == {f"encoder.model.{layer}" for layer in expected}
    assert all(value.equal(before[key]) for key, value in method.state_dict().items())
    assert all(parameter.grad is None for parameter in method.parameters())
    assert method.training


def test_they_are_those_that_a_step_leaves_without_gradient():
    method = VICReg(build_backbone("mobilenetv3_small_050", image_size=64), image_size=64, projector=(8, 8))
    pixels = torch.linspace(-1, 1, 2 * 3 * 64 * 64).view(2, 3, 64, 64)
    method.projector(method.encoder(pixels).pooled).square().sum().backward()
    left = [name for name, parameter in method.named_parameters() if parameter.grad is None]
    assert idle_parameters(method) == left != []


def test_two_processes_train_a_backbone_that_has_them(tmp_path):
    options = "--method vicreg --backbone mobilenetv3_small_050 --accelerator cpu --max-steps 3"
    options += " --image-size 32 --batch-size 4 --workers 0 --precision 32 --report false --projector [8,8]"
    done = run("pretrain", "parts:n=128,size=32", "--out", tmp_path / "run", *options.split(), ranks=2)
    assert "frozen, since no feature depends on them: encoder.model.conv_head.weight" in done.stderr
