"""MobileNet-v1: the released file's own arithmetic, and the network in its two forms."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open

import glocal
from glocal.backbones import build_backbone, load_encoder, mobilenet, save_encoder
from glocal.backbones.mobilenet import Conv2dSame
from glocal.backbones.receptive_field import receptive_field
from glocal.errors import UsageError
from glocal.exporters.graph import export_torch

FILE = "mobilenet_v1_{}.safetensors"


def images(size, batch=2):
    return np.random.default_rng(0).random((batch, 3, size, size))


def arithmetic(file: Path, x: np.ndarray) -> np.ndarray:
    """The map before the classifier of images (B, 3, h, w) in [0, 1], as the file says: its numbers in float32, as it
    has them, all else in float64."""
    with safe_open(file, "np") as stored:
        plan = json.loads(stored.metadata()["plan"])
        numbers = {key: stored.get_tensor(key).astype(np.float32) for key in stored.keys()}  # noqa: SIM118
    x = (x - 0.5) / 0.5
    for n, layer in enumerate(plan[:-1]):
        weight = numbers[f"{n}.scale"] * (numbers[f"{n}.weight"] - numbers[f"{n}.zero"])
        kernel, stride, sides = weight.shape[-1], layer["stride"], x.shape[2:]
        out = [-(-side // stride) for side in sides]
        lack = [max((o - 1) * stride + kernel - side, 0) for o, side in zip(out, sides, strict=True)]
        padded = np.pad(x, [(0, 0), (0, 0), *((each // 2, each - each // 2) for each in lack)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (2, 3))[:, :, ::stride, ::stride]
        rule = "bchwij,cij->bchw" if layer["groups"] == "depthwise" else "bchwij,ocij->bohw"
        weight = weight[:, 0] if layer["groups"] == "depthwise" else weight
        x = np.einsum(rule, windows, weight, optimize=True) + numbers[f"{n}.bias"][:, None, None]
        x = x.clip(0, 6) if layer["relu6"] else x
    return x


@pytest.mark.parametrize(("width", "size"), [("025", 128), ("025", 75), ("050", 96)])
def test_it_computes_what_the_file_says(released, width, size):
    backbone = build_backbone(f"mobilenet_v1_{width}", pretrained=released(FILE.format(width))).eval()
    mean, std = (np.array(each)[:, None, None] for each in (backbone.mean, backbone.std))
    pixels = torch.from_numpy((images(size) - mean) / std).double()
    with torch.no_grad():
        features = backbone.double()(pixels)
    expected = arithmetic(released(FILE.format(width)), images(size))
    assert np.abs(features.dense.numpy() - expected).max() < 1e-5
    assert np.abs(features.pooled.numpy() - expected.mean((2, 3))).max() < 1e-5


def test_weights_of_another_width_are_refused_by_their_shape(quantised):
    with pytest.raises(UsageError, match=r"\(16, 3, 3, 3\), is \(8, 3, 3, 3\) in the file") as raised:
        build_backbone("mobilenet_v1_050", pretrained=quantised("025"))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("width", ["025", "050"])
def test_the_file_alone_is_an_encoder(quantised, width, tmp_path):
    file = quantised(width)
    name = f"mobilenet_v1_{width}"
    loaded, named = glocal.load(str(file)), build_backbone(name, pretrained=file).eval()
    assert (loaded.name, loaded.pretrained, loaded.training) == (name, False, False)
    x = torch.from_numpy(images(64)).float()
    with torch.no_grad():
        assert torch.equal(loaded(x).tokens, named(x).tokens)
    found = glocal.embed(str(file), "parts:n=3,size=32", split="all", image_size=32, workers=0)
    assert found.pooled.shape[1] == loaded.dim
    glocal.export(str(file), format="safetensors", out=str(tmp_path / "out"))
    with torch.no_grad():
        assert torch.equal(glocal.load(str(tmp_path / "out"))(x).tokens, named(x).tokens)


@pytest.mark.parametrize("stride", [8, 16])
def test_dilation_fills_in_between_the_cells(stride):
    """TensorFlow's padding is behind: cell k of the coarse map is the last of its block in the fine one."""
    torch.manual_seed(0)
    coarse = build_backbone("mobilenet_v1_025").eval()
    fine = build_backbone("mobilenet_v1_025", output_stride=stride).eval()
    fine.load_state_dict(coarse.state_dict())
    x = torch.from_numpy(images(128)).float()
    step = 32 // stride
    with torch.no_grad():
        a, b = coarse(x), fine(x)
    assert fine.stride == stride
    torch.testing.assert_close(b.dense[..., step - 1 :: step, step - 1 :: step], a.dense)
    places = fine.cells(*b.grid)[step - 1 :: step, step - 1 :: step]
    assert torch.equal(places, coarse.cells(*a.grid))


def test_cells_are_where_their_fields_are():
    backbone = build_backbone("mobilenet_v1_025")
    field = receptive_field(backbone)
    assert (backbone.stride, backbone.offset) == (32, 31.5)
    assert (field.stride, field.offset, field.size) == (32, 31.5, 315)
    assert (backbone.norm, backbone.family, backbone.traits.any_size) == ("batch", "resnet", True)


def test_from_scratch_it_has_batch_norm_and_from_the_file_none(released, tmp_path):
    scratch, folded = (
        build_backbone("mobilenet_v1_025"),
        build_backbone("mobilenet_v1_025", pretrained=released(FILE.format("025"))),
    )
    norms = [sum(isinstance(m, torch.nn.BatchNorm2d) for m in each.modules()) for each in (scratch, folded)]
    assert norms == [27, 0]
    assert folded.norm == scratch.norm
    x = torch.from_numpy(images(64)).float()
    for backbone in (scratch, folded):  # saved, loaded, and loaded into one that begins with BatchNorm
        again = build_backbone("mobilenet_v1_025")
        again.load_state_dict(backbone.state_dict())
        save_encoder(backbone, tmp_path / str(backbone is folded))
        loaded = load_encoder(tmp_path / str(backbone is folded))
        with torch.no_grad():
            expected = backbone.eval()(x).pooled
            assert torch.equal(again.eval()(x).pooled, expected)
            assert torch.equal(loaded(x).pooled, expected)


def test_it_pads_as_timm_does():
    draw = np.random.default_rng(1)
    for side in (6, 7):
        ours, theirs = Conv2dSame(3, 4, 3, 2, 1), timm.layers.Conv2dSame(3, 4, 3, 2)
        theirs.load_state_dict(ours.state_dict())
        x = torch.from_numpy(draw.normal(size=(1, 3, side, side + 1))).float()
        torch.testing.assert_close(ours(x), theirs(x))


def test_it_exports_for_images_of_any_size(tmp_path, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(mobilenet, "PLAN", mobilenet.PLAN[:2])  # the others are alike, and each takes its time
    gaps = export_torch(build_backbone("mobilenet_v1_025", image_size=64).eval(), tmp_path / "net.pt2")
    assert set(gaps) == {"pooled", "dense"}
    program = torch.export.load(tmp_path / "net.pt2", extra_files=(about := {"glocal.json": ""}))
    assert json.loads(about["glocal.json"])["any_image_size"] == "true"
    assert program.module()(torch.zeros(1, 3, 96, 160))[1].shape == (1, 32, 24, 40)
