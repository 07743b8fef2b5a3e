import pytest
import torch
import torch.nn.functional as F
from torch import nn

from glocal.backbones import build_backbone
from glocal.errors import UsageError

FAMILIES = {
    "resnet18": ("batch", 512, 32),
    "convnext_atto": ("layer", 320, 32),
    "vit_tiny_patch16_224": ("layer", 192, 16),
    "deit_tiny_distilled_patch16_224": ("layer", 192, 16),
    "xcit_nano_12_p16_224": ("layer", 128, 16),
    "swin_tiny_patch4_window7_224": ("layer", 768, 32),
    "regnety_002": ("batch", 368, 32),
}


@pytest.fixture(scope="module")
def backbones():
    """One of each family, with affine norms that are not the identity."""
    torch.manual_seed(0)
    built = {name: build_backbone(name).eval() for name in FAMILIES}
    for backbone in built.values():
        for module in backbone.modules():
            if isinstance(module, (nn.LayerNorm, nn.BatchNorm2d)):
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias)
    return built


def images(size=64, batch=2):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("size", [64, 96])
def test_shapes_and_positions(backbones, name, size):
    backbone = backbones[name]
    norm, dim, stride = FAMILIES[name]
    assert (backbone.norm, backbone.dim, backbone.stride) == (norm, dim, stride)
    with torch.no_grad():
        features = backbone(images(size))
        pooled, dense = backbone.forward_tensors(images(size))
    side = size // stride
    assert features.pooled.shape == (2, dim)
    assert features.tokens.shape == (2, side**2, dim)
    assert features.grid == (side, side)
    assert torch.equal(features.positions, backbone.cells(side, side).reshape(-1, 2))
    assert torch.equal(pooled, features.pooled)
    assert torch.equal(dense, features.dense)
    assert torch.equal(dense[:, :, 1, 0], features.tokens[:, side])


@pytest.mark.parametrize("name", FAMILIES)
def test_native_pooling_is_timms_own(backbones, name):
    backbone = backbones[name]
    with torch.no_grad():
        assert torch.equal(backbone(images()).pooled, backbone.model(images()))


@pytest.mark.parametrize("name", FAMILIES)
def test_mean_pooling_is_the_mean_of_the_tokens(backbones, name):
    backbone = backbones[name]
    backbone.pool = "mean"
    with torch.no_grad():
        features = backbone(images())
    backbone.pool = "native"
    assert torch.equal(features.pooled, features.tokens.mean(1))


def test_tokens_of_a_resnet_are_its_last_map(backbones):
    backbone = backbones["resnet18"]
    with torch.no_grad():
        expected = backbone.model.forward_features(images())
        features = backbone(images())
    assert torch.equal(features.dense, expected)
    torch.testing.assert_close(features.pooled, expected.mean((2, 3)))


def test_tokens_of_a_convnext_are_normalised_per_location(backbones):
    backbone = backbones["convnext_atto"]
    norm = backbone.model.head.norm
    with torch.no_grad():
        raw = backbone.model.forward_features(images())
        features = backbone(images())
    expected = F.layer_norm(raw.permute(0, 2, 3, 1), (320,), norm.weight, norm.bias, norm.eps)
    torch.testing.assert_close(features.dense, expected.permute(0, 3, 1, 2))
    # The norm of the mean is not the mean of the norms.
    assert not torch.allclose(features.pooled, features.tokens.mean(1), atol=1e-2)


def test_tokens_of_a_vit_leave_out_the_prefix(backbones):
    for name, prefix in (("vit_tiny_patch16_224", 1), ("deit_tiny_distilled_patch16_224", 2)):
        backbone = backbones[name]
        with torch.no_grad():
            raw = backbone.model.forward_features(images())
            assert torch.equal(backbone(images()).tokens, raw[:, prefix:])
            backbone.pool = "cls"
            assert torch.equal(backbone(images()).pooled, raw[:, 0])
            backbone.pool = "native"


def test_fc_norm_is_applied_per_location_and_registers_are_no_class_token():
    torch.manual_seed(0)
    backbone = build_backbone("vit_pwee_patch16_reg1_gap_256", image_size=64).eval()
    nn.init.uniform_(backbone.model.fc_norm.weight, 0.5, 1.5)
    with torch.no_grad():
        raw, features = backbone.model.forward_features(images()), backbone(images())
    assert torch.equal(features.tokens, backbone.model.fc_norm(raw)[:, 1:])
    assert torch.equal(features.pooled, backbone.model(images()))
    with pytest.raises(UsageError, match="no class token"):
        backbone.pool = "cls"


def test_a_swins_map_is_not_transposed(backbones):
    backbone = backbones["swin_tiny_patch4_window7_224"]
    with torch.no_grad():
        raw = backbone.model.forward_features(images(96))
        assert torch.equal(backbone(images(96)).dense, raw.permute(0, 3, 1, 2))


def test_a_head_that_widens_after_pooling_is_left_out(caplog):
    backbone = build_backbone("mobilenetv3_small_050")
    assert backbone.pool == "mean" == backbone.config["pool"]
    assert "288 channels to 1024" in caplog.text
    assert backbone(images()).pooled.shape == (2, 288)


def test_positions_of_a_rectangle():
    backbone = build_backbone("vit_tiny_patch16_224").eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 32, 64))
    assert features.grid == (2, 4)
    assert features.positions[1].tolist() == [24.0, 8.0]
    assert features.positions[4].tolist() == [8.0, 24.0]


@pytest.mark.parametrize(
    ("name", "size", "grid"),
    [("resnet18", 65, (3, 3)), ("convnext_atto", 65, (2, 2)), ("xcit_nano_12_p16_224", 72, (5, 5))],
)
def test_sizes_that_the_stride_does_not_divide(backbones, name, size, grid):
    with torch.no_grad():
        assert backbones[name](images(size)).grid == grid


def test_sizes_and_pixels_that_are_refused(backbones):
    with pytest.raises(UsageError, match=r"does not take 72×72 images.*divisible by patch size"):
        backbones["vit_tiny_patch16_224"](images(72))
    mixer = build_backbone("resmlp_12_224")
    with pytest.raises(UsageError, match="made for 224 px does not take 64×64 images"):
        mixer(images())
    with pytest.raises(UsageError, match="normalised float images"):
        backbones["resnet18"](torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(UsageError, match="normalised float images"):
        backbones["resnet18"](torch.zeros(1, 1, 64, 64))


@pytest.mark.parametrize("name", ["test_resnet", "test_convnext", "test_vit", "xcit_nano_12_p16_224"])
@pytest.mark.parametrize("pool", ["native", "mean"])
def test_every_parameter_gets_a_gradient(name, pool):
    """DistributedDataParallel fails on parameters that the loss does not reach."""
    backbone = build_backbone(name, pool=pool, image_size=64)
    features = backbone(images())
    (features.pooled.square().sum() + features.dense.square().sum()).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_channels_last_gives_the_same_features(backbones, name):
    backbone = backbones[name]
    with torch.no_grad():
        expected = backbone(images())
        actual = backbone(images().contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(actual.pooled, expected.pooled, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.dense, expected.dense, rtol=1e-4, atol=1e-4)
    if name != "vit_tiny_patch16_224":
        assert actual.dense.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "vit_tiny_patch16_224"])
def test_bf16_autocast_keeps_positions_exact(backbones, name):
    backbone = backbones[name]
    with torch.no_grad():
        expected = backbone(images())
        with torch.autocast("cpu", torch.bfloat16):
            actual = backbone(images())
    assert actual.positions.dtype == torch.float32
    assert torch.equal(actual.positions, expected.positions)
    assert F.cosine_similarity(actual.pooled.float(), expected.pooled).min() > 0.99


def test_positions_first_seen_in_inference_may_enter_a_loss():
    backbone = build_backbone("resnet18")
    with torch.inference_mode():
        backbone.cells(2, 2)
    scale = torch.ones((), requires_grad=True)
    (backbone.cells(2, 2) * scale).sum().backward()
    assert scale.grad == 4 * (0.5 + 32.5)


def test_forward_compiles_without_a_graph_break():
    backbone = build_backbone("test_resnet").eval()
    compiled = torch.compile(backbone, backend="eager", fullgraph=True)
    with torch.no_grad():
        actual, expected = compiled(images()), backbone(images())
    torch.testing.assert_close((actual.pooled, actual.positions), (expected.pooled, expected.positions))


@pytest.mark.parametrize(
    ("name", "family"), [("test_nfnet", "batch"), ("replications.networks:resmlp_w64_p4", "layer")]
)
def test_without_normalisation_it_is_of_the_family_of_its_layers(name, family):
    """Which decides the optimiser: ResMLP is trained as transformers are."""
    assert build_backbone(name, image_size=64).norm == family
