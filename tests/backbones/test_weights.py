import logging

import pytest
import timm
import torch
import torchvision
from safetensors.torch import save_file

from glocal.backbones import build_backbone, save_encoder
from glocal.errors import UsageError

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def reference():
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
    assert "99 of 100 tensors loaded" in caplog.text


def test_other_weights_are_refused_with_the_counts(tmp_path, reference):
    torch.save(reference.state_dict(), tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"of the encoder's 265 tensors match; the first other, layer1.0.conv1.weight"):
        build_backbone("resnet50", pretrained=tmp_path / "weights.pth")
    with pytest.raises(UsageError, match=r"0 of the encoder's \d+ tensors match.*absent from the file"):
        build_backbone("vit_tiny_patch16_224", pretrained=tmp_path / "weights.pth")


def test_four_fifths_must_match(tmp_path, reference):
    state = reference.state_dict()
    weights = [key for key in state if not key.endswith("num_batches_tracked") and not key.startswith("fc.")]
    torch.save({key: state[key] for key in weights[:80]}, tmp_path / "enough.pth")
    assert pooled(tmp_path / "enough.pth").shape == (2, 512)
    torch.save({key: state[key] for key in weights[:79]}, tmp_path / "part.pth")
    with pytest.raises(UsageError, match=f"79 of the encoder's 100 tensors match; the first other, {weights[79]}"):
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
