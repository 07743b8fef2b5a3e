"""ONNX and torch.export files against PyTorch, with this file's own normalisation, at sizes the exporter never saw."""

import json
import zipfile

import pytest
import torch
from timm.layers import AvgPool2dSame

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.exporters import export_encoder
from glocal.exporters.graph import _may_vary, compare, export_onnx, export_torch, trace

CASES = {
    "resnet18": {"stem": "cifar", "output_stride": 4},
    "test_vit": {"pool": "mean"},
}
SHAPES = [(1, 32, 32), (5, 32, 32), (2, 48, 80)]


def shallow(name, blocks=1, **options):
    """The network with only the first blocks of each stage, since the exporters take their time for every block."""
    backbone = build_backbone(name, **options).eval()
    for module in list(backbone.modules()):
        for child, stage in module.named_children():
            if child == "blocks" or child.startswith("layer"):
                setattr(module, child, stage[:blocks])
    return backbone


@pytest.fixture(scope="module", params=CASES)
def captured(request):
    torch.manual_seed(0)
    backbone = shallow(request.param, image_size=32, **CASES[request.param])
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return backbone, trace(backbone, 32)


@pytest.fixture
def encoder(captured, monkeypatch):
    """An encoder that both formats capture once, to save time."""
    backbone, traced = captured
    monkeypatch.setattr("glocal.exporters.graph.trace", lambda *_: traced)
    return backbone


def expected(backbone, image):
    """The contract restated: RGB in [0, 1], normalised by the encoder's mean and standard deviation."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    with torch.inference_mode():
        features = backbone((image - mean) / std)
    return features.pooled, features.dense


def assert_same(run, backbone):
    for shape in SHAPES:
        image = torch.rand(shape[0], 3, *shape[1:])
        for ours, theirs in zip(expected(backbone, image), run(image), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_onnx(encoder, tmp_path, capfd):
    onnx = pytest.importorskip("onnx")
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    difference = export_onnx(encoder, tmp_path / "encoder.onnx")
    assert 0 <= difference["pooled"] < 1e-3
    assert 0 <= difference["dense"] < 1e-3
    assert capfd.readouterr() == ("", "")
    session = onnxruntime.InferenceSession(str(tmp_path / "encoder.onnx"), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_inputs()] == ["image"]
    assert session.get_inputs()[0].shape == ["batch", 3, "height", "width"]
    assert [node.name for node in session.get_outputs()] == ["pooled", "dense"]
    assert session.get_outputs()[0].shape[0] == "batch"
    assert "height" in session.get_outputs()[1].shape[2]
    assert_same(lambda image: [torch.from_numpy(a) for a in session.run(None, {"image": image.numpy()})], encoder)
    model = onnx.load(tmp_path / "encoder.onnx")
    assert model.opset_import[0].version >= 17
    about = {entry.key: entry.value for entry in model.metadata_props}
    assert about["encoder"] == encoder.name
    assert about["any_image_size"] == "true"
    side = 32 // encoder.stride
    assert torch.equal(torch.tensor(json.loads(about["cells"])), encoder.cells(side, side))


def test_torch_export(encoder, tmp_path):
    difference = export_torch(encoder, tmp_path / "encoder.pt2")
    assert difference["pooled"] < 1e-5
    assert_same(torch.export.load(tmp_path / "encoder.pt2").module(), encoder)
    with zipfile.ZipFile(tmp_path / "encoder.pt2") as archive:
        about = json.loads(archive.read(next(name for name in archive.namelist() if name.endswith("glocal.json"))))
    assert about["image_size"] == "32"
    assert "[0, 1]" in about["input"]


def test_sizes_that_can_be_captured_but_not_written_are_fixed(tmp_path):
    """Average pooling padded to "same" rounds sizes up by an operation that torch.export cannot serialise."""
    backbone = build_backbone("tiny:Net", image_size=64).eval()
    backbone.model.body.insert(3, AvgPool2dSame(2, 1))
    path = export_encoder(backbone, format="torch-export", out=tmp_path / "encoder.pt2")
    image = torch.rand(3, 3, 64, 64)
    for ours, theirs in zip(expected(backbone, image), torch.export.load(path).module()(image), strict=True):
        torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


@pytest.fixture(scope="module")
def traced():
    return trace(build_backbone("tiny:Net", image_size=32), 32)


@pytest.mark.parametrize(
    ("name", "free"),
    [
        ("swin_tiny_patch4_window7_224", False),  # minutes of symbolic algebra
        ("mobilevit_xxs", False),
        ("xcit_nano_12_p16_224", True),
        ("vit_tiny_patch16_224", True),
    ],
)
def test_where_free_sizes_are_tried(name, free):
    assert _may_vary(build_backbone(name, pool="mean").model) == free


def test_a_model_of_one_size_keeps_it(tmp_path):
    traced = trace(shallow("resmlp_12_224", pool="mean", image_size=32), 32)
    assert not traced.any_size
    assert compare(traced, traced.program.module(), "x")["dense"] < 1e-5  # at two batch sizes


def test_compare_notices_a_wrong_output(traced):
    with pytest.raises(RuntimeError, match="'dense' differs"):
        compare(traced, lambda image: (traced.graph(image)[0], traced.graph(image)[1] * 1.002), "x")
    with pytest.raises(RuntimeError, match=r"'pooled' is \(1, 47\)"):
        compare(traced, lambda image: (traced.graph(image)[0][:, 1:], traced.graph(image)[1]), "x")
    with pytest.raises(RuntimeError, match="'pooled' differs"):
        compare(traced, lambda image: (traced.graph(image)[0] * float("nan"), traced.graph(image)[1]), "x")


def test_compare_reports_the_largest_difference(traced):
    difference = compare(traced, lambda image: (traced.graph(image)[0] + 1e-6, traced.graph(image)[1]), "x")
    assert difference["pooled"] == pytest.approx(1e-6, rel=0.2)
    assert difference["dense"] == 0


def test_missing_onnx_packages(monkeypatch, tmp_path):
    monkeypatch.setattr("glocal.exporters.graph.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match=r"needs onnxscript: pip install 'glocal\[onnx\]'"):
        export_onnx(build_backbone("resnet10t"), tmp_path / "encoder.onnx")


def test_a_size_the_encoder_does_not_take(tmp_path):
    backbone = build_backbone("resmlp_12_224", pool="mean")
    with pytest.raises(UsageError, match="resmlp_12_224"):
        export_torch(backbone, tmp_path / "encoder.pt2", image_size=100)
    assert list(tmp_path.iterdir()) == []


def test_does_not_touch_the_global_generator_or_the_encoder():
    backbone = build_backbone("tiny:Net", image_size=32).train()
    state = torch.get_rng_state()
    compare(traced := trace(backbone, 32), traced.graph, "x")
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.training
    assert all(parameter.requires_grad for parameter in backbone.parameters())
