"""The door: every format by name, to the place asked for."""

import importlib
import sys
from unittest.mock import patch

import pytest
import torch

from glocal.backbones import build_backbone, load_encoder
from glocal.errors import UsageError
from glocal.exporters import FORMATS, export_encoder


@pytest.fixture(scope="module")
def backbone():
    return build_backbone("test_resnet", image_size=64, pool="mean").eval()


def test_safetensors_loads_back(backbone, tmp_path):
    for _ in range(2):  # the second replaces the first
        path = export_encoder(backbone, format="safetensors", out=tmp_path / "out")
    pixels = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(load_encoder(path)(pixels).pooled, backbone(pixels).pooled)
    assert sorted(entry.name for entry in path.iterdir()) == ["encoder.json", "encoder.safetensors"]


def test_a_run_is_not_overwritten(backbone, tmp_path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UsageError, match="holds other files"):
        export_encoder(backbone, format="safetensors", out=tmp_path)


@pytest.mark.parametrize(
    ("format", "hint"),
    [("tim", "did you mean timm"), ("torch_export", "did you mean torch-export"), ("coreml", "choose one of timm")],
)
def test_unknown_format(backbone, tmp_path, format, hint):
    with pytest.raises(UsageError, match=hint):
        export_encoder(backbone, format=format, out=tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("format", ["onnx", "torch-export"])
def test_file_formats_want_their_suffix(backbone, tmp_path, format):
    pytest.importorskip("onnxscript")
    with pytest.raises(UsageError, match="does not end in"):
        export_encoder(backbone, format=format, out=tmp_path / "encoder")


@pytest.mark.parametrize("format", FORMATS)
def test_what_takes_one_size_only_is_refused_where_all_are_wanted(format, tmp_path):
    backbone = build_backbone("replications.networks:resmlp_w64_p4", image_size=32)
    with pytest.raises(UsageError, match="resmlp_w64_p4 takes images of one size only: leave out --native"):
        export_encoder(backbone, format=format, out=tmp_path / "out", native=True)
    assert not list(tmp_path.iterdir())


def test_timm_by_name(backbone, tmp_path):
    path = export_encoder(backbone, format="timm", out=str(tmp_path / "out"), about={"Method": "VICReg"})
    assert path == tmp_path / "out"
    assert sorted(entry.name for entry in path.iterdir()) == ["README.md", "config.json", "model.safetensors"]
    assert set(FORMATS) == {"timm", "onnx", "torch-export", "safetensors"}


def test_import_is_lazy():
    """Neither the exporters nor timm are needed to open the room: here they cannot be imported."""
    with patch.dict(sys.modules):
        for name in [name for name in sys.modules if name.partition(".")[0] == "glocal"]:
            del sys.modules[name]
        sys.modules.update(dict.fromkeys(("timm", "onnx", "onnxruntime", "pyarrow")))
        assert importlib.import_module("glocal.exporters").FORMATS == FORMATS
