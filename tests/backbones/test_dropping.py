"""Leaving out patches: equal to running the network on those alone, nothing when none are dropped."""

import pytest
import torch

from glocal.backbones import build_backbone
from glocal.errors import UsageError
from glocal.methods.encode import encode, keep_random
from glocal.views import View


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    return build_backbone("test_vit", image_size=64).double().eval()


def images(batch=3, size=64, seed=0):
    return torch.randn(batch, 3, size, size, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("size", [64, 96])
@pytest.mark.parametrize("per_sample", [False, True])
def test_it_is_the_network_on_the_kept_tokens_only(backbone, size, per_sample):
    """Blocks applied by hand to the class token and the kept patches, image by image."""
    x, model, patches = images(size=size), backbone.model, (size // 16) ** 2
    kept = torch.stack([torch.randperm(patches)[:5] for _ in x]) if per_sample else torch.randperm(patches)[:5]
    features = backbone(x, kept)
    for i, image in enumerate(x):
        mine = kept[i] if per_sample else kept
        embedded = model._pos_embed(model.patch_embed(image[None]))
        tokens = torch.cat([embedded[:, :1], embedded[:, 1 + mine]], dim=1)
        out = model.norm(model.blocks(tokens))[0]
        torch.testing.assert_close(features.pooled[i], out[0])
        torch.testing.assert_close(features.tokens[i], out[1:])
        where = features.positions[i] if per_sample else features.positions
        cells = torch.stack([mine % (size // 16), mine // (size // 16)], dim=1)
        torch.testing.assert_close(where, 16.0 * cells + 8)


def test_keeping_all_in_order_is_the_plain_forward(backbone):
    plain, all_kept = backbone(images()), backbone(images(), torch.arange(16))
    torch.testing.assert_close(all_kept.pooled, plain.pooled)
    torch.testing.assert_close(all_kept.tokens, plain.tokens)
    assert all_kept.grid is None
    with pytest.raises(ValueError, match="do not fill a grid"):
        _ = all_kept.dense
    assert backbone(images()).grid == (4, 4)  # nothing remains of it


def test_dropped_patches_have_no_influence(backbone):
    x, kept = images(), torch.tensor([0, 5, 10])
    changed = x.clone()
    changed[:, :, :16, 16:] += 1  # patches 1 to 3
    torch.testing.assert_close(backbone(x, kept).tokens, backbone(changed, kept).tokens)


def test_networks_that_cannot_say_so():
    convolutional = build_backbone("test_resnet")
    assert not convolutional.traits.drops_patches
    with pytest.raises(UsageError, match="cannot leave out patches"):
        convolutional(torch.randn(2, 3, 64, 64), torch.arange(2))


def test_views_with_and_without_all_their_patches_are_encoded_apart(backbone):
    whole, part = View(images(seed=1), torch.zeros(3, 2, 3)), View(images(seed=2), torch.zeros(3, 2, 3))
    torch.manual_seed(1)
    part = keep_random(part, 16, 0.5)
    assert part.kept.shape == (3, 8)
    assert (part.kept == part.kept[0]).all()  # one for the batch
    first, second, third = encode(backbone, [part, part, whole], group="size")
    torch.testing.assert_close(first.tokens, backbone(part.pixels, part.kept).tokens)
    torch.testing.assert_close(second.positions, backbone(part.pixels, part.kept).positions)
    torch.testing.assert_close(third.dense, backbone(whole.pixels).dense)
    assert keep_random(whole, 16, 1.0) is whole
    assert not torch.equal(keep_random(whole, 16, 0.5).kept[0].sort()[0], part.kept[0].sort()[0])
