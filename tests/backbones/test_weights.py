import logging
import pickle
from functools import partial

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import VisionTransformer
from torchvision.models.convnext import CNBlockConfig, ConvNeXt

from glocal.backbones import build_backbone, save_encoder
from glocal.errors import UsageError

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def reference(thin):
    torch.manual_seed(1)
    return timm.create_model("resnet18", num_classes=10, zero_init_last=False).eval()


def pooled(path, name="resnet18", **options):
    with torch.no_grad():
        return build_backbone(name, pretrained=str(path), **options).eval()(IMAGE).pooled


@pytest.mark.parametrize(
    ("wrap", "prefix"),
    [(None, ""), ("state_dict", "module."), ("model", ""), ("state_dict", "model.backbone."), (None, "net.encoder_q.")],
)
def test_a_state_dict_is_found_under_any_prefix(tmp_path, reference, wrap, prefix):
    state = {prefix + key: value for key, value in reference.state_dict().items()}
    state["projector.0.weight"] = torch.zeros(3)
    torch.save({wrap: state, "epoch": 3} if wrap else state, tmp_path / "weights.pth")
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(IMAGE), pre_logits=True)
    assert torch.equal(pooled(tmp_path / "weights.pth"), expected)


def test_safetensors_and_finished_runs(tmp_path, reference):
    save_file(reference.state_dict(), tmp_path / "weights.safetensors")
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(IMAGE), pre_logits=True)
    assert torch.equal(pooled(tmp_path / "weights.safetensors"), expected)
    save_encoder(build_backbone("resnet18", pretrained=tmp_path / "weights.safetensors"), tmp_path / "run")
    assert torch.equal(pooled(tmp_path / "run"), expected)


def test_torchvisions_names_agree(tmp_path):
    torch.manual_seed(2)
    theirs = torchvision.models.resnet18().eval()
    torch.save(theirs.state_dict(), tmp_path / "torchvision.pt")
    theirs.fc = torch.nn.Identity()
    with torch.no_grad():
        torch.testing.assert_close(pooled(tmp_path / "torchvision.pt"), theirs(IMAGE))


def test_a_vits_positions_are_resampled_to_the_image_size(tmp_path):
    torch.manual_seed(3)
    large = timm.create_model("vit_tiny_patch16_224", num_classes=0, dynamic_img_size=True).eval()
    torch.nn.init.normal_(large.pos_embed)
    torch.save(large.state_dict(), tmp_path / "vit.pth")
    with torch.no_grad():
        expected = large(IMAGE)  # resampled by timm on the fly
    torch.testing.assert_close(pooled(tmp_path / "vit.pth", "vit_tiny_patch16_224", image_size=64), expected)


def test_another_stem_is_loaded_but_for_the_stem(tmp_path, reference, caplog):
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    with caplog.at_level(logging.INFO):
        backbone = build_backbone("resnet18", stem="cifar", pretrained=tmp_path / "weights.pth")
    assert torch.equal(backbone.model.layer3[0].conv1.weight, reference.layer3[0].conv1.weight)
    assert "left at their initial values: conv1.weight" in caplog.text
    assert "104 of 105 tensors loaded" in caplog.text


def test_other_weights_are_refused_with_the_counts(tmp_path, reference):
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"of the encoder's 265 tensors match; the first other, layer1.0.conv1.weight"):
        build_backbone("resnet50", pretrained=tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"0 of the encoder's \d+ tensors match.*absent from the file"):
        build_backbone("vit_tiny_patch16_224", pretrained=tmp_path / "weights.pth")


def test_four_fifths_must_match(tmp_path, reference):
    state = reference.state_dict()
    weights = [key for key in state if not key.endswith("num_batches_tracked") and not key.startswith("fc.")]
    torch.save({key: state[key] for key in weights[:84]}, tmp_path / "enough.pth")
    assert pooled(tmp_path / "enough.pth").shape == (2, 8)
    torch.save({key: state[key] for key in weights[:83]}, tmp_path / "part.pth")
    with pytest.raises(UsageError, match=f"83 of the encoder's 105 tensors match; the first other, {weights[83]}"):
        pooled(tmp_path / "part.pth")


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors"])
def test_broken_files_are_told_in_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"this is no checkpoint")
    with pytest.raises(UsageError, match="cannot read") as raised:
        pooled(tmp_path / name)
    assert "\n" not in str(raised.value)


def test_files_that_hold_no_weights(tmp_path):
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UsageError, match="holds no state dict"):
        pooled(tmp_path / "list.pt")
    torch.save(torch.nn.Linear(2, 2), tmp_path / "module.pt")
    with pytest.raises(UsageError, match="more than a plain state dict"):
        pooled(tmp_path / "module.pt")


WIDTHS, DEPTHS = (16, 24, 32, 40), (1, 2, 1, 1)


@pytest.mark.parametrize(
    ("theirs", "ours", "size"),
    [
        (lambda: VisionTransformer(32, 8, 2, 4, 192, 768, num_classes=5), "vit_tiny_patch16_224", 32),
        (lambda: ConvNeXt([*map(CNBlockConfig, WIDTHS, (*WIDTHS[1:], None), DEPTHS)]), "convnext_tiny", 64),
    ],
)
def test_torchvisions_other_names_are_translated(tmp_path, monkeypatch, theirs, ours, size, caplog):
    torch.manual_seed(4)
    model = theirs().eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.05)
    torch.save(model.state_dict(), tmp_path / "weights.pth")
    x, options = IMAGE[..., :size, :size], {}
    if "vit" in ours:  # a shallow one
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2, num_heads=4, patch_size=8))
        model.heads, options = torch.nn.Identity(), {"image_size": size}
    else:
        monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depths=DEPTHS, dims=WIDTHS))
        model.classifier[2] = torch.nn.Identity()
    with torch.no_grad():
        found = build_backbone(ours, pretrained=tmp_path / "weights.pth", **options).eval()(x).pooled
        torch.testing.assert_close(found, model(x), rtol=1e-4, atol=1e-4)
    assert "left at their initial values" not in caplog.text
    assert "2 tensors are not the encoder's, and not used: " in caplog.text  # the classifier


def _dinov2(state):
    """With registers: the class token's position is a row of its own."""
    state["register_tokens"] = state.pop("reg_token")
    first = torch.randn(1, 1, 384)
    state["pos_embed"] = torch.cat([first, state["pos_embed"]], 1)
    return state | {"mask_token": torch.zeros(1, 384), "cls_token": state["cls_token"] - first}


def _dinov3(state):
    for ours, theirs in {"reg_token": "storage_tokens", "gamma_1": "ls1.gamma", "gamma_2": "ls2.gamma"}.items():
        state = {key.replace(ours, theirs): value for key, value in state.items()}
    return state | {"mask_token": torch.zeros(1, 384), "rope_embed.periods": torch.ones(16)}


@pytest.mark.parametrize(
    ("name", "size", "official"),
    [
        ("vit_small_patch16_224", 64, lambda state: {f"module.backbone.{key}": state[key] for key in state}),
        ("vit_small_patch14_reg4_dinov2", 56, _dinov2),
        ("vit_small_patch16_dinov3", 64, _dinov3),
    ],
)
def test_the_names_of_dino_and_its_successors(tmp_path, monkeypatch, name, size, official):
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, depth=2))
    torch.manual_seed(5)
    model = timm.create_model(name, num_classes=0, img_size=size).eval()
    for weight in model.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    torch.save({"teacher": official(model.state_dict()), "epoch": 1}, tmp_path / "weights.pth")
    x = IMAGE[..., :size, :size]
    with torch.no_grad():
        loaded = build_backbone(name, pretrained=tmp_path / "weights.pth", image_size=size).eval()
        torch.testing.assert_close(loaded(x).pooled, model(x), rtol=1e-4, atol=1e-4)


def test_released_weights_go_by_their_name(monkeypatch, reference):
    made = timm.create_model

    def downloaded(name, pretrained=False, **options):
        model = made(name, pretrained=False, **options)
        if pretrained:
            assert name == "resnet18.tv_in1k"
            model.load_state_dict({key: value for key, value in reference.state_dict().items() if "fc" not in key})
        return model

    monkeypatch.setattr(timm, "create_model", downloaded)
    with torch.no_grad():
        expected = reference.forward_head(reference.forward_features(IMAGE), pre_logits=True)
    for spec in ("resnet18.tv_in1k", "timm:resnet18.tv_in1k"):
        assert torch.equal(pooled(spec), expected)


class Harm:
    def __reduce__(self):
        return open, ("harmed", "w")


@pytest.mark.parametrize("save", [torch.save, lambda value, path: path.write_bytes(pickle.dumps(value, protocol=4))])
def test_a_file_that_would_execute_code_is_refused(tmp_path, monkeypatch, save, recwarn):
    monkeypatch.chdir(tmp_path)
    save({"model": Harm()}, tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"weights.pth.*more than a plain state dict") as raised:
        pooled(tmp_path / "weights.pth")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "harmed").exists()
    assert not [warning for warning in recwarn if "pickle" in str(warning.message)]
