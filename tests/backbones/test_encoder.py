import json
import re

import pytest
import timm
import torch
from safetensors.torch import load_file

import glocal
from glocal.backbones import build_backbone, load_encoder, save_encoder
from glocal.errors import UsageError

IMAGE = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def trained(name, **options):
    """A backbone whose BatchNorm statistics have moved, as after training."""
    torch.manual_seed(0)
    backbone = build_backbone(name, **options)
    backbone.train()(IMAGE)
    return backbone.eval()


@pytest.mark.usefixtures("thin")
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet18", {"stem": "cifar", "image_size": 64}),
        ("convnext_atto", {"pool": "mean", "drop_path": 0.1}),
        ("vit_tiny_patch16_224", {"image_size": 64, "pool": "mean"}),
        ("swin_tiny_patch4_window7_224", {"image_size": 64}),
    ],
)
def test_what_is_saved_is_loaded_bit_for_bit(tmp_path, name, options):
    backbone = trained(name, **options)
    save_encoder(backbone, tmp_path)
    loaded = load_encoder(tmp_path)
    assert loaded.config == backbone.config
    assert not loaded.training
    with torch.no_grad():
        before, after = backbone(IMAGE), loaded(IMAGE)
    assert torch.equal(before.pooled, after.pooled)
    assert torch.equal(before.tokens, after.tokens)
    assert torch.equal(before.positions, after.positions)


def test_the_files_are_self_explaining(tmp_path):
    backbone = trained("resnet18", image_size=64, pool="mean")
    save_encoder(backbone, tmp_path, method="vicregl", step=12)
    about = json.loads((tmp_path / "encoder.json").read_text())
    assert about["config"] == backbone.config
    assert about["config"]["pretrained"] is False
    assert (about["name"], about["dim"], about["stride"], about["image_size"]) == ("resnet18", 512, 32, 64)
    assert tuple(about["mean"]) == backbone.mean
    assert tuple(about["std"]) == backbone.std
    assert about["extra"] == {"method": "vicregl", "step": 12}
    assert about["glocal"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.json", "encoder.safetensors"]
    model = timm.create_model("resnet18", num_classes=0).eval()  # timm's own names
    model.load_state_dict(load_file(tmp_path / "encoder.safetensors"))
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGE), backbone(IMAGE).pooled)


def test_a_failed_save_leaves_the_old_encoder(tmp_path, monkeypatch):
    backbone = trained("test_resnet")
    save_encoder(backbone, tmp_path)
    old = (tmp_path / "encoder.safetensors").read_bytes()

    def fail(tensors, path, metadata):
        path.write_bytes(old[:100])
        raise OSError("disk full")

    monkeypatch.setattr("glocal.backbones.encoder.save_file", fail)
    with pytest.raises(OSError, match="disk full"):
        save_encoder(backbone, tmp_path)
    assert (tmp_path / "encoder.safetensors").read_bytes() == old
    assert len(list(tmp_path.iterdir())) == 2


def test_loading_leaves_the_random_generator_alone(tmp_path):
    save_encoder(trained("test_resnet"), tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(())
    torch.manual_seed(5)
    load_encoder(tmp_path)
    assert torch.rand(()) == expected


def test_code_that_the_file_names_runs_only_with_consent(tmp_path, module_here):
    """Someone else's encoder.json, loaded in a folder that holds the module it names."""
    save_encoder(trained("test_resnet"), tmp_path)
    about = json.loads((tmp_path / "encoder.json").read_text())
    about["config"]["name"] = "mine:net"
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    file = module_here(
        "from pathlib import Path\nimport timm\n\nPath('ran').touch()\n\n\n"
        "def net(**options):\n    return timm.create_model('test_resnet', **options)\n"
    )
    with pytest.raises(UsageError) as error:
        load_encoder(tmp_path)
    assert not (file.parent / "ran").exists()
    assert "mine:net" in str(error.value)
    assert str(error.value).endswith(f"if you trust it: glocal.load('{tmp_path}', trust_code=True)")
    assert glocal.load(str(tmp_path), trust_code=True).name == "mine:net"
    assert (file.parent / "ran").exists()


def test_another_image_size(tmp_path):
    backbone = trained("vit_tiny_patch16_224", image_size=96)
    save_encoder(backbone, tmp_path)
    loaded = load_encoder(tmp_path, image_size=64)
    assert loaded.image_size == 64
    assert loaded.model.pos_embed.shape[1] == 17
    with torch.no_grad():
        torch.testing.assert_close(loaded(IMAGE).tokens, backbone(IMAGE).tokens)


def test_the_path_of_the_weights_is_enough(tmp_path):
    save_encoder(trained("test_resnet"), tmp_path)
    assert load_encoder(tmp_path / "encoder.safetensors").name == "test_resnet"


def test_random_encoders_by_name():
    backbone = load_encoder("timm:resnet18:random", image_size=64)
    assert backbone.image_size == 64
    assert not backbone.training
    with pytest.raises(UsageError, match="unknown encoder 'timm:resnet18:best'"):
        load_encoder("timm:resnet18:best")


def test_a_missing_run_gets_the_nearest_sibling(tmp_path):
    save_encoder(trained("test_resnet"), tmp_path / "vicregl-photos")
    with pytest.raises(UsageError, match=re.escape("did you mean vicregl-photos?")):
        load_encoder(tmp_path / "vicreg-photos")
    with pytest.raises(UsageError, match="no encoder at"):
        load_encoder(tmp_path / "nowhere" / "deep")


def test_runs_and_folders_without_an_encoder(tmp_path):
    with pytest.raises(UsageError, match="holds no encoder"):
        load_encoder(tmp_path)
    (tmp_path / "config.yaml").write_text("method: vicreg\n")
    with pytest.raises(UsageError, match=r"holds no encoder .* and no checkpoint; give a run directory"):
        load_encoder(tmp_path)


def test_damaged_encoders(tmp_path):
    save_encoder(trained("test_resnet"), tmp_path)
    weights = tmp_path / "encoder.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UsageError, match="cannot read"):
        load_encoder(tmp_path)
    weights.write_bytes(whole)
    (tmp_path / "encoder.json").write_text('{"name": "resnet18"')
    with pytest.raises(UsageError, match=r"encoder.json is not valid JSON .*: export the encoder again"):
        load_encoder(tmp_path)
    (tmp_path / "encoder.json").unlink()
    says = f"{weights} does not say of which network it is: name it, timm:NAME:{weights}"
    with pytest.raises(UsageError, match=re.escape(says)) as refused:
        load_encoder(weights)
    assert "\n" not in str(refused.value)


def test_a_file_of_weights_is_an_encoder_where_its_network_is_named(tmp_path):
    backbone = trained("test_resnet")
    torch.save(backbone.model.state_dict(), tmp_path / "theirs.pth")
    save_encoder(backbone, tmp_path / "run")
    moved = (tmp_path / "run" / "encoder.safetensors").replace(tmp_path / "moved.safetensors")
    for file in (tmp_path / "theirs.pth", moved):
        loaded = load_encoder(f"timm:test_resnet:{file}")
        assert (loaded.pretrained, loaded.training) == (False, False)
        assert torch.equal(loaded(IMAGE).pooled, backbone(IMAGE).pooled)
        with pytest.raises(UsageError, match=f"name it, timm:NAME:{re.escape(str(file))}"):
            load_encoder(file)
    with pytest.raises(UsageError, match="does not fit"):
        load_encoder(f"timm:test_vit:{moved}")
    save_encoder(backbone, tmp_path / "run")  # whose folder holds another file, too
    with pytest.raises(UsageError, match="does not say of which network"):
        load_encoder(moved.replace(tmp_path / "run" / "other.safetensors"))


def test_a_file_that_would_execute_code_is_no_encoder(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "theirs.pth")
    for spec in (tmp_path / "theirs.pth", f"timm:test_resnet:{tmp_path / 'theirs.pth'}"):
        with pytest.raises(UsageError, match=r"it would execute torch\.nn\.modules\.linear\.Linear"):
            load_encoder(spec)


@pytest.mark.usefixtures("thin")
def test_weights_of_another_architecture_are_refused(tmp_path):
    save_encoder(trained("resnet18"), tmp_path)
    about = json.loads((tmp_path / "encoder.json").read_text())
    about["config"]["stem"] = "cifar"
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    with pytest.raises(UsageError, match=r"104 of the encoder's 105 tensors match; the first other, conv1.weight"):
        load_encoder(tmp_path)
