"""The folder is opened by timm where glocal cannot be imported, and must give our features."""

import json
import sys

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.exporters.timm_folder import export_timm

CASES = {
    "test_resnet": {"output_stride": 16},
    "test_convnext": {"pool": "mean"},  # the mean of the norms, where timm's own is the norm of the mean
    "test_vit": {"pool": "mean"},  # where timm's own is the class token
    "xcit_nano_12_p16_224": {"pool": "native"},
}

OPEN = """
import timm, torch
for case in cases:
    seen = torch.load(case / "expected.pt")
    where = f"local-dir:{case / 'timm'}"
    with torch.inference_mode():
        model = timm.create_model(where, pretrained=True).eval()
        torch.testing.assert_close(model(seen["pixels"]), seen["pooled"], rtol=1e-4, atol=1e-5)
        classifier = timm.create_model(where, pretrained=True, num_classes=10).eval()
        assert classifier(seen["pixels"]).shape == (2, 10)
        features = classifier.forward_head(classifier.forward_features(seen["pixels"]), pre_logits=True)
        torch.testing.assert_close(features, seen["pooled"], rtol=1e-4, atol=1e-5)
        size = {"img_size": 96} if "vit" in case.name or "xcit" in case.name else {}
        larger = timm.create_model(where, pretrained=True, **size).eval()
        torch.testing.assert_close(larger(seen["larger"]), seen["larger_pooled"], rtol=1e-3, atol=1e-4)
    config = timm.data.resolve_model_data_config(model)
    assert config["input_size"][-2:] in ((64, 64), [64, 64]), config
    assert config["interpolation"] == "bicubic" and config["crop_pct"] == 0.875, config
    torch.testing.assert_close(torch.tensor(config["mean"] + config["std"]), torch.tensor(seen["normalisation"]))
"""


def trained(name, **options):
    """A backbone whose parameters and statistics are all away from their initial values, as after training."""
    torch.manual_seed(0)
    backbone = build_backbone(name, image_size=64, **options).eval()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for key, buffer in backbone.named_buffers():
            if "running" in key:
                buffer.add_(0.1 * torch.rand_like(buffer))
    return backbone


def test_timm_opens_it_without_glocal(tmp_path, monkeypatch):
    for name, options in CASES.items():
        backbone = trained(name, **options)
        pixels, larger = torch.randn(2, 3, 64, 64), torch.randn(2, 3, 96, 96)
        case = tmp_path / name
        export_timm(backbone, case / "timm")
        with torch.inference_mode():
            expected = {"pooled": backbone(pixels).pooled, "larger_pooled": backbone(larger).pooled}
        expected |= {"pixels": pixels, "larger": larger, "normalisation": [*backbone.mean, *backbone.std]}
        torch.save(expected, case / "expected.pt")
    for name in [name for name in sys.modules if name.partition(".")[0] == "glocal"]:
        monkeypatch.setitem(sys.modules, name, None)  # any import of it fails
    exec(OPEN, {"cases": sorted(tmp_path.glob("*/"))})


def test_pooling_that_timm_cannot_say_is_noted(tmp_path):
    """mobilenetv3 widens its channels between pooling and classifier, so timm cannot stop at the mean."""
    export_timm(trained("mobilenetv3_small_050", pool="mean"), tmp_path / "out")
    assert "pooling, as in training, cannot be said to timm" in (tmp_path / "out" / "README.md").read_text()
    export_timm(trained("test_resnet"), tmp_path / "same")
    assert "cannot be said" not in (tmp_path / "same" / "README.md").read_text()


def test_card_and_config(tmp_path):
    export_timm(trained("convnext_atto"), tmp_path / "out", about={"Method": "VICRegL", "Images": "12,345"})
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| Method | VICRegL |" in card
    assert "| Images | 12,345 |" in card
    assert "licence" in card
    assert "model.head.norm" in card  # native ConvNeXt: the map that timm returns is not normalised yet
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["architecture"], config["num_classes"], config["num_features"]) == ("convnext_atto", 0, 320)


def test_cifar_stem_is_refused_with_a_way_out(tmp_path):
    with pytest.raises(UsageError, match=r"cifar stem of resnet18; export it as onnx or torch-export"):
        export_timm(trained("resnet18", stem="cifar"), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_diverged_encoder_is_named_as_such(tmp_path):
    backbone = trained("test_resnet")
    with torch.no_grad():
        next(backbone.parameters()).fill_(float("nan"))
    with pytest.raises(UsageError, match="not finite"):
        export_timm(backbone, tmp_path / "out")


def test_leaves_the_encoder_and_the_global_generator_alone(tmp_path):
    backbone = trained("test_resnet").train()
    before = {key: value.clone() for key, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    export_timm(backbone, tmp_path / "out")
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.training
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())
