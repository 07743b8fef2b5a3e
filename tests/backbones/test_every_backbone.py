"""What holds for every backbone that is registered, and for those of timm's that rows of the table are about.

One of each builder stands for the others; of long ones the first blocks of each stage.
"""

from __future__ import annotations

import copy
import functools
import re

import numpy as np
import pytest
import torch

from glocal.backbones import build_backbone, save_encoder
from glocal.backbones.weights import load_weights, read_weights
from glocal.errors import UsageError
from glocal.exporters.graph import compare, trace
from glocal.methods import DINO, VICRegL, check_fits
from glocal.plugins import find, names
from glocal.training.optimizers import idle_parameters
from glocal.views import Batch, View, multi_crop
from glocal.views.geometry import crop_affine

OURS = [
    "rf109_resnet18",
    "co_resnet18_rf29",
    "bagnet9",
    "mobilenet_v1_025",
    "sobel_alexnet",
    "sobel_resnet18",
    "sobel_vgg16_bn",
    "menet5",
    "flexivit_tiny",
    "vit22b_tiny",
    "navit_tiny",
    "unet_tiny",
    "conv_coder",
    "strided_small",
]
TIMMS = [
    "xcit_nano_12_p8_224",
    "resmlp_12_224",
    "regnety_002",
    "convnextv2_atto",
    "vit_small_patch14_reg4_dinov2",
]
ONE_SIZE = {"menet5", "resmlp_12_224"}
TRAINED = [*TIMMS, "flexivit_tiny", "vit22b_tiny"]
SIZES = {"xcit_nano_12_p8_224": 16, "vit_small_patch14_reg4_dinov2": 28, "convnextv2_atto": 32, "regnety_002": 32}
SIZES |= {"menet5": 32, "flexivit_tiny": 32, "vit22b_tiny": 32, "navit_tiny": 32}
CAPTURED = ["flexivit_tiny", "vit22b_tiny", "xcit_nano_12_p8_224"]  # others: tests/exporters
IMAGES = 2


def test_one_of_each_builder_is_tried():
    builder = lambda name: getattr(made := find("backbones", name), "func", made)
    assert {builder(name) for name in OURS} == {
        builder(name) for name in names("backbones") if not name.startswith("text")
    }


@pytest.fixture(scope="module", params=[*OURS, *TIMMS])
def encoder(request):
    return shallow(request.param)


def shallow(name):
    """The network with one block in each stage, the caller's own."""
    return copy.deepcopy(_shallow(name))


@functools.cache
def _shallow(name):
    torch.manual_seed(0)
    made = build_backbone(name, image_size=SIZES.get(name, 64))
    for place, stage in list(made.model.named_modules()):
        if re.search(r"\b(blocks|layer\d|s\d)$", place):
            for block in list(dict(stage.named_children()))[1:]:
                delattr(stage, block)
    with torch.no_grad():
        for key, tensor in made.state_dict().items():
            if tensor.is_floating_point() and "running" not in key:
                tensor.add_(0.02 * torch.from_numpy(np.random.default_rng(len(key)).normal(size=tensor.shape)))
    return made


def images(size, count=IMAGES):
    return torch.from_numpy(np.random.default_rng(size).normal(size=(count, 3, size, size))).float()


def test_three_sizes_or_one(encoder):
    stride = encoder.stride
    for height, width in ((4, 4), (2, 4), (3, 2)):
        pixels = images(4 * stride)[:, :, : height * stride, : width * stride]
        if encoder.name in ONE_SIZE and (height, width) != (4, 4):
            with pytest.raises(UsageError, match="made for"):
                encoder(pixels)
            continue
        features = encoder.eval()(pixels)
        assert features.pooled.shape == (IMAGES, encoder.dim)
        assert features.dense.shape[2:] == features.grid
        assert torch.equal(features.positions, encoder.cells(*features.grid).flatten(0, 1))
        inside = (features.positions > 0).all(1) & (features.positions < torch.tensor([width, height]) * stride).all(1)
        assert inside.all()


def test_bfloat16_and_channels_last_say_the_same(encoder):
    pixels = images(encoder.image_size)
    with torch.no_grad():
        expected = encoder.eval()(pixels)
        last = encoder(pixels.contiguous(memory_format=torch.channels_last))
        with torch.autocast("cpu", torch.bfloat16):
            coarse = encoder(pixels)
    torch.testing.assert_close(last.tokens, expected.tokens, rtol=1e-3, atol=1e-4 * float(expected.tokens.abs().max()))
    for name in ("pooled", "tokens"):
        there = getattr(expected, name)
        assert (getattr(coarse, name) - there).norm() < 0.05 * there.norm()


def test_what_is_saved_is_what_is_loaded(encoder, tmp_path):
    save_encoder(encoder, tmp_path)
    other, pixels = copy.deepcopy(encoder).eval(), images(encoder.image_size)
    with torch.no_grad():
        for tensor in other.model.state_dict().values():
            tensor.mul_(2)
        load_weights(other.model, read_weights(tmp_path), origin=tmp_path, minimum=1.0)
        found, expected = other(pixels), encoder.eval()(pixels)
    assert torch.equal(found.tokens, expected.tokens)
    assert torch.equal(found.pooled, expected.pooled)


class Method:
    """What `idle_parameters` asks of a method."""

    def __init__(self, encoder):
        self.encoder = encoder


def test_gradients_reach_every_parameter(encoder):
    idle = idle_parameters(Method(encoder))
    encoder.train().zero_grad()
    features = encoder(images(encoder.image_size))
    (features.pooled.square().sum() + features.tokens.square().sum()).backward()
    still = [
        name for name, p in encoder.named_parameters() if p.requires_grad and (p.grad is None or not p.grad.abs().max())
    ]
    assert {f"encoder.{name}" for name in still} == set(idle)
    beyond = re.compile(r"model\.head|classifier|model\.(up|norm|out)\.")  # the pooling; a U-Net's middle
    assert all(beyond.search(name) for name in idle)


@pytest.mark.parametrize("name", CAPTURED)
def test_it_is_captured_with_its_dense_map(name, monkeypatch):
    monkeypatch.setattr("glocal.exporters.graph._may_vary", lambda model: False)  # which takes twice the time
    encoder = shallow(name)
    encoder = encoder.at(8) if encoder.traits.patches else encoder
    traced = trace(encoder.eval(), encoder.image_size)
    assert traced.grid == encoder(images(encoder.image_size, 1)).grid
    difference = compare(traced, traced.program.module(), encoder.name)  # at other batches
    assert difference["dense"] < 1e-3


def view(size, seed):
    """A crop of an image of 100 pixels."""
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(0, 100, (IMAGES, 2, 2)), axis=1).reshape(IMAGES, 4)
    affine = torch.from_numpy(np.stack([crop_affine(box, False, (size, size)) for box in boxes]))
    return View(torch.from_numpy(rng.normal(size=(IMAGES, 3, size, size))).float(), affine)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize("method", [VICRegL, DINO])
def test_twenty_steps_change_all_of_it_or_it_says_why_not(name, method):
    encoder = shallow(name)
    size = encoder.image_size
    if method is VICRegL:
        options = {"projector": (32, 32), "local_projector": (16, 16), "matches": 0.5, "alpha": 0.5}
    else:
        options = {"outputs": 32, "hidden": 32, "bottleneck": 16}
    crops = {"image_size": size, "small_crops": int(size >= 2 * encoder.stride), "small_size": size // 2}
    if name in ONE_SIZE:
        with pytest.raises(UsageError, match=r"one size only.* set --small-size 64, or --small-crops 0"):
            check_fits(encoder, multi_crop(size, 1, size // 2))
        crops["small_crops"] = 0
    learner = method(encoder, **crops, **options).train()
    check_fits(encoder, learner.recipe)
    batch = Batch([view(crop.size, k) for k, crop in enumerate(learner.recipe.views)], torch.arange(IMAGES))
    before = {key: value.clone() for key, value in encoder.named_parameters()}
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], 1e-3, fused=True)
    losses = []
    for step in range(20):
        loss = learner(batch).total
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if hasattr(learner, "after_step"):
            learner.after_step(step / 20)
        losses.append(loss.item())
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0] or method is DINO  # whose targets move
    assert [key for key, value in encoder.named_parameters() if torch.equal(value, before[key])] == []
