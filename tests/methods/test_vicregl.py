"""VICReg and VICRegL as modules: what enters their losses, and that they learn."""

from __future__ import annotations

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.losses import vicreg_loss, vicregl_loss
from glocal.methods import VICReg, VICRegL, method_class, method_names, resolve_options
from glocal.views import Batch, View


def view(batch: int, size: int, *, flip: bool = False, seed: int = 0) -> View:
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(batch, 3, size, size, generator=generator)
    affine = torch.tensor([[2.0, 0.0, 10.0], [0.0, 3.0, 20.0]]).repeat(batch, 1, 1)
    if flip:
        affine[:, 0] = torch.tensor([-2.0, 0.0, 10.0 + 2.0 * size])
    return View(pixels, affine)


@pytest.fixture
def backbone():
    torch.manual_seed(0)
    return build_backbone("resnet10t", output_stride=8, pool="mean")


SMALL = {"image_size": 32, "projector": (16, 16), "local_projector": (8, 8)}


def test_vicreg_forwards_each_view_alone(backbone):
    """BatchNorm statistics are per view: the loss is that of two separate forward passes."""
    method = VICReg(backbone, image_size=32, projector=(16, 16))
    views = [view(4, 32, seed=1), view(4, 32, seed=2)]
    loss = method(Batch(views, torch.arange(4)))
    z = [method.projector(backbone(v.pixels).pooled) for v in views]
    torch.testing.assert_close(loss.total, vicreg_loss(*z).total)
    joined = method.projector(backbone(torch.cat([v.pixels for v in views])).pooled).chunk(2)
    assert not torch.allclose(loss.total, vicreg_loss(*joined).total)


def test_vicregl_composes_global_and_local(backbone):
    method = VICRegL(backbone, alpha=0.3, matches=(5, 3), **SMALL)
    views = [view(4, 32, seed=1), view(4, 32, flip=True, seed=2), view(4, 16, seed=3)]
    loss = method(Batch(views, torch.arange(4)))
    features = [backbone(v.pixels) for v in views]
    expected = vicregl_loss(
        [method.projector(f.pooled) for f in features],
        [method.local_projector(f.tokens).transpose(1, 2).unflatten(2, f.grid) for f in features],
        [v.to_source(backbone.cells(*f.grid)[None]) for v, f in zip(views, features, strict=True)],
        alpha=0.3,
        matches=(5, 3),
    )
    torch.testing.assert_close(loss.total, expected.total)
    torch.testing.assert_close(sum(loss.terms.values()), loss.total.detach())


def test_locations(backbone):
    """Cell (0, 0) of a mirrored crop lies at its right edge; the official grid does not know."""
    plain, mirrored = view(1, 32), view(1, 32, flip=True)
    ours, official = VICRegL(backbone, **SMALL), VICRegL(backbone, **SMALL, **VICRegL.presets["official"](64))
    # stride 8, cells centred at pixel 8k + .5; source x = 2x + 10, mirrored: 10 + 2·32 − 2x
    assert ours.locations(plain, 4, 4)[0, 0, 1].tolist() == [2 * 8.5 + 10, 3 * 0.5 + 20]
    assert ours.locations(mirrored, 4, 4)[0, 0, 1].tolist() == [10 + 64 - 2 * 8.5, 3 * 0.5 + 20]
    assert official.locations(plain, 4, 4)[0, 0, 1].tolist() == [2 * 12 + 10, 3 * 4 + 20]
    assert official.locations(mirrored, 4, 4)[0, 0, 1].tolist() == [2 * 12 + 10, 3 * 4 + 20]


def test_alpha_one_is_global_only_and_out_of_range_is_refused(backbone):
    loss = VICRegL(backbone, alpha=1.0, **SMALL)(Batch([view(4, 32), view(4, 32, seed=1)], torch.arange(4)))
    assert set(loss.terms) == {"global_invariance", "global_variance", "global_covariance"}
    with pytest.raises(UsageError, match="alpha"):
        VICRegL(backbone, alpha=1.1)


@pytest.mark.parametrize("cls", [VICReg, VICRegL])
def test_every_parameter_learns(backbone, cls):
    options = SMALL if cls is VICRegL else {"image_size": 32, "projector": (16, 16)}
    method = cls(backbone, **options)
    method(Batch([view(4, 32, seed=1), view(4, 32, flip=True, seed=2)], torch.arange(4))).total.backward()
    assert [name for name, p in method.named_parameters() if p.grad is None] == []


def test_registry():
    assert {"vicreg", "vicregl"} <= set(method_names())
    assert method_class("vicregl") is VICRegL
    assert resolve_options(VICRegL, "official", 256, {"alpha": 0.5})["alpha"] == 0.5
    options = resolve_options(VICRegL, "official", 256, {})
    assert options["alpha"] == 0.75
    assert options["flip_aware"] is False
    assert options["projector"] == (8192, 8192, 8192)
    for name in method_names():
        cls = method_class(name)
        assert "arXiv" in cls.paper
        assert {"paper", "small"} <= cls.presets.keys()
    assert resolve_options(VICRegL, "small", 64, {})["projector"] == (512, 512, 512)
    assert resolve_options(VICRegL, "small", 4096, {})["projector"] == (8192, 8192, 8192)
