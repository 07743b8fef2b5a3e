"""FlexiViT: its resized kernel against the definition and timm's, views of one set of weights, an ordinary ViT."""

from __future__ import annotations

import json

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
from timm.layers import resample_patch_embed
from timm.models.vision_transformer import VisionTransformer

from glocal.backbones import build_backbone, load_encoder, save_encoder
from glocal.backbones.flexivit import BUFFER, checkpoint_filter_fn, pi_resize, resized
from glocal.errors import UsageError
from glocal.evaluation.baseline import start_of
from glocal.exporters import export_encoder

SIZE = 48


def numbers(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def shrunk(pixels, patch):
    """Patches (N, 1, b, b) resized by torch, on which nothing here rests."""
    return F.interpolate(pixels, (patch, patch), mode="bilinear")


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    made = build_backbone("replications.networks:flexivit_w64", image_size=SIZE, patch=16).eval()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.05 * torch.from_numpy(np.random.default_rng(1).normal(size=parameter.shape)).float())
    return made


def images(size=SIZE):
    return numbers(2, 3, size, size).float()


@pytest.mark.parametrize("patch", [32, 40, 48, 64])
def test_a_larger_kernel_says_of_a_resized_patch_what_the_kernel_says_of_the_patch(patch):
    patches, kernel = numbers(20, 1, BUFFER, BUFFER), numbers(BUFFER, BUFFER, seed=1)
    expected = (patches * kernel).sum((1, 2, 3))
    found = (shrunk(patches, patch) * pi_resize(kernel, patch)).sum((1, 2, 3))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("patch", [4, 8, 12, 15, 16, 24])
def test_a_smaller_kernel_is_the_least_squares_solution_of_least_norm(patch):
    kernel = numbers(3, BUFFER, BUFFER)
    basis = torch.eye(BUFFER**2, dtype=torch.float64).view(-1, 1, BUFFER, BUFFER)
    transposed = shrunk(basis, patch).flatten(1).numpy()  # Rᵀ, (b², p²)
    expected = np.linalg.lstsq(transposed, kernel.flatten(1).numpy().T, rcond=None)[0].T
    np.testing.assert_allclose(pi_resize(kernel, patch).flatten(1), expected, atol=1e-11)


@pytest.mark.parametrize("patch", [8, 20, 32])
def test_it_is_timms_bilinear_resampling_without_antialiasing(patch):
    kernel = numbers(5, 3, BUFFER, BUFFER).float()
    expected = resample_patch_embed(kernel, [patch, patch], interpolation="bilinear", antialias=False)
    torch.testing.assert_close(pi_resize(kernel, patch), expected, rtol=1e-4, atol=1e-5)


def test_autocast_does_not_coarsen_it():
    kernel = numbers(5, BUFFER, BUFFER).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = pi_resize(kernel, 8)
    assert torch.equal(found, pi_resize(kernel, 8))


def test_positions_are_resized_bilinearly():
    positions = numbers(1, 49, 5)
    torch.testing.assert_close(resized(positions, (7, 7)), positions, rtol=0, atol=1e-6)
    rows = torch.arange(7.0).repeat_interleave(7).view(1, 49, 1)
    expected = [-0.25 + 0.5 * k for k in range(14)]
    expected[0], expected[-1] = 0, 6  # clamped
    np.testing.assert_allclose(resized(rows, (14, 3))[0, ::3, 0], expected, atol=1e-6)


@pytest.mark.parametrize("grid", [(2, 2), (4, 3), (5, 14)])
def test_coarser_positions_are_antialiased_as_the_authors_are(grid):
    """By "linear" of jax.image.resize: a triangle as wide as a step of the coarser grid, or of the finer, of sum 1."""
    positions, rows = numbers(1, 49, 5), []
    for to in grid:
        step = 7 / to
        centres = (np.arange(to) + 0.5) * step - 0.5
        triangle = np.maximum(1 - np.abs(centres[:, None] - np.arange(7)) / max(step, 1), 0)
        rows.append(torch.from_numpy(triangle / triangle.sum(1, keepdims=True)).to(positions))
    expected = torch.einsum("hi,wj,ijd->hwd", *rows, positions.view(7, 7, 5)).flatten(0, 1)
    torch.testing.assert_close(resized(positions, grid)[0], expected, rtol=1e-5, atol=1e-6)
    assert (rows[0] > 0).any(0).all(), "each position is read"


def test_views_share_weights_and_keep_their_patches(encoder):
    first = encoder(images())
    finer = encoder.at(8)
    assert [finer.stride, finer.offset, encoder.stride, encoder.offset] == [8, 4.0, 16, 8.0]
    fine = finer(images())
    assert (first.grid, fine.grid) == ((3, 3), (6, 6))
    assert fine.positions[:2].tolist() == [[4.0, 4.0], [12.0, 4.0]]
    assert first.positions[:2].tolist() == [[8.0, 8.0], [24.0, 8.0]]
    assert torch.equal(encoder(images()).tokens, first.tokens)  # whatever a view did in between
    assert encoder.traits.any_size
    assert encoder.at(8).traits is not encoder.traits
    assert {p.data_ptr() for p in finer.parameters()} == {p.data_ptr() for p in encoder.parameters()}
    kernel = encoder.model.patch_embed.proj.weight
    (gradient,) = torch.autograd.grad(encoder.at(4)(images()).pooled.sum(), kernel)
    assert gradient.shape == (64, 3, BUFFER, BUFFER)
    assert gradient.abs().sum() > 0


def test_setting_the_patch_is_what_a_view_does(encoder):
    encoder.patch = 8
    found = encoder(images()).tokens
    encoder.patch = 16
    assert torch.equal(found, encoder.at(8)(images()).tokens)
    assert encoder(images()).grid == (3, 3)


@pytest.mark.parametrize("patch", [4, 8, 16, 24])
def test_patches_left_out_keep_the_positions_of_the_whole(encoder, patch):
    view, kept = encoder.at(patch), torch.tensor([3, 0])
    seen, whole = view(images(), kept), view(images())
    assert torch.equal(seen.positions, whole.positions[kept])
    assert torch.equal(view(images(), torch.arange(len(whole.positions))).tokens, whole.tokens)


def test_timm_opens_it_as_an_ordinary_vision_transformer(tmp_path):
    patch = 8  # not that of the name
    torch.manual_seed(0)
    encoder = build_backbone("flexivit_tiny", image_size=SIZE).eval()
    export_encoder(encoder.at(patch), format="timm", out=tmp_path / "vit")
    model = timm.create_model(f"local-dir:{tmp_path / 'vit'}", pretrained=True).eval()
    assert type(model) is VisionTransformer
    assert model.patch_embed.proj.weight.shape == (192, 3, patch, patch)
    with torch.inference_mode():
        torch.testing.assert_close(model(images()), encoder.at(patch)(images()).pooled, rtol=1e-4, atol=1e-5)
        tokens = model.forward_features(images())[:, 1:]
        torch.testing.assert_close(tokens, encoder.at(patch)(images()).tokens, rtol=1e-4, atol=1e-5)


def test_it_is_saved_and_begun_anew_with_its_patch(encoder, tmp_path):
    save_encoder(encoder.at(8), tmp_path)
    loaded = load_encoder(tmp_path, trust_code=True)
    assert loaded.patch == 8
    assert torch.equal(loaded(images()).tokens, encoder.at(8)(images()).tokens)
    assert start_of(loaded).patch == 8


def test_it_begins_as_the_ordinary_vision_transformer_whose_weights_it_gets(tmp_path):
    torch.manual_seed(0)
    plain = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=112).eval()
    torch.nn.init.normal_(plain.pos_embed)
    torch.save(plain.state_dict(), tmp_path / "vit.pth")
    encoder = build_backbone("flexivit_tiny", pretrained=tmp_path / "vit.pth").eval()
    with torch.inference_mode():
        expected = plain.forward_features(images(112))
        found = encoder(images(112))
    torch.testing.assert_close(found.tokens, expected[:, 1:], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.pooled, expected[:, 0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("patch", [1, 4, 8, 14, 16, 31])
def test_a_kernel_that_was_resized_is_seen_as_it_was(patch):
    kernel, state = numbers(2, 3, patch, patch), {"pos_embed": torch.zeros(1, 49, 2)}
    made = checkpoint_filter_fn(state | {"patch_embed.proj.weight": kernel}, None)["patch_embed.proj.weight"]
    np.testing.assert_allclose(pi_resize(made, patch), kernel, atol=1e-11)
    patches = numbers(5, 1, BUFFER, BUFFER)
    for k, whole in zip(kernel[:, 0], made[:, 0], strict=True):
        np.testing.assert_allclose((patches * whole).sum((1, 2, 3)), (shrunk(patches, patch) * k).sum((1, 2, 3)))


def test_an_encoder_of_timms_network_of_that_name_stays_one(tmp_path):
    theirs = build_backbone("flexivit_small.300ep_in1k", image_size=32).eval()
    save_encoder(theirs, tmp_path)
    about = json.loads((tmp_path / "encoder.json").read_text())
    about["config"] = {"name": "flexivit_small", "image_size": 32, "pretrained": False}
    (tmp_path / "encoder.json").write_text(json.dumps(about))
    found = load_encoder(tmp_path)
    assert type(found.model) is VisionTransformer
    assert torch.equal(found(images(32)).tokens, theirs(images(32)).tokens)
    assert "1200ep_in1k" in found.traits.weights


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (lambda: build_backbone("flexivit_tiny", patch=65), "its patches have 1 to 64 px"),
        (lambda: build_backbone("flexivit_tiny").at(65), "takes patches of 1 to 64 px, not of 65"),
        (lambda: build_backbone("flexivit_tiny", patch=65), "cannot be built with --patches 65: its"),
        (lambda: build_backbone("flexivit_tiny", pretrained=True), "no pretrained weights"),
        (lambda: build_backbone("flexivit_small", pretrained=True), "--pretrained flexivit_small.1200ep_in1k$"),
        (lambda: build_backbone("test_resnet", patch=8), "test_resnet has no patches to choose from; leave out --patc"),
        (lambda: build_backbone("test_vit").at(16), "test_vit has cells of one size only, 16 px; leave out --patch"),
        (lambda: build_backbone("flexivit_tiny")(torch.zeros(1, 3, 40, 40)), r"divisible by patch size \(16\)"),
    ],
)
def test_what_cannot_be_is_one_clear_line(made, says):
    with pytest.raises(UsageError, match=says) as refused:
        made()
    assert "\n" not in str(refused.value)
