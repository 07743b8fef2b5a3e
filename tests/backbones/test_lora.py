"""LoRA: against a naive statement of it, and against peft where that is installed."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from glocal.backbones import build_backbone
from glocal.backbones.fold import fold
from glocal.backbones.lora import LowRank, add_lora
from glocal.errors import UsageError


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=4), nn.Flatten(), nn.Linear(8 * 9, 5)
    )


def drawn(*shape, seed=1):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def adapted():
    """A network with LoRA of rank 2 and drawn matrices B."""
    model = network()
    add_lora(model, rank=2, alpha=3.0)
    for seed, part in enumerate(m for m in model.modules() if isinstance(m, LowRank)):
        part.b.data = drawn(*part.b.shape, seed=seed)
    return model


def test_at_first_nothing_changes_to_the_bit_and_only_a_and_b_train():
    backbone = build_backbone("test_vit", image_size=64).eval()
    x, names = drawn(2, 3, 64, 64), set(backbone.state_dict())
    with torch.no_grad():
        before = backbone(x)
        add_lora(backbone, rank=4)
        after = backbone(x)
    assert torch.equal(after.tokens, before.tokens)
    assert torch.equal(after.pooled, before.pooled)
    trained = {name for name, p in backbone.named_parameters() if p.requires_grad}
    assert trained
    assert all(name.endswith((".a", ".b")) for name in trained)
    fold(backbone)
    assert set(backbone.state_dict()) == names
    with torch.no_grad():
        assert torch.equal(backbone(x).tokens, before.tokens)


def test_it_computes_the_layer_plus_the_scaled_product():
    model, x = adapted(), drawn(2, 3, 11, 11)
    conv, grouped, linear = model[0], model[2], model[4]
    assert not hasattr(grouped, "parametrizations")
    low = conv.parametrizations.weight[0]
    plain = network()
    down = nn.functional.conv2d(x, low.a.view(2, 3, 3, 3), stride=2)  # as in the paper: down to the rank, and up again
    y = plain[0](x) + 3.0 / 2 * nn.functional.conv2d(down, low.b[:, :, None, None])
    torch.testing.assert_close(conv(x), y)
    low, z = linear.parametrizations.weight[0], drawn(4, 72)
    torch.testing.assert_close(linear(z), plain[4](z) + 1.5 * z @ low.a.T @ low.b.T)


def test_folded_it_is_a_plain_network_of_the_same_output():
    model, x = adapted(), drawn(2, 3, 11, 11)
    expected = model(x).detach()
    folded = copy.deepcopy(model)
    fold(folded)
    assert type(folded[0]) is nn.Conv2d
    again = network()
    again.load_state_dict(folded.state_dict())
    torch.testing.assert_close(again(x), expected)
    assert torch.equal(model(x), expected)  # of the one that was copied nothing changed


def test_a_network_without_such_layers_is_refused():
    with pytest.raises(UsageError, match="no linear layer"):
        add_lora(nn.BatchNorm2d(3))


def test_output_and_gradients_equal_pefts():
    peft = pytest.importorskip("peft")
    ours, x = adapted(), drawn(2, 3, 11, 11)
    theirs = peft.get_peft_model(network(), peft.LoraConfig(r=2, lora_alpha=3, target_modules=["0", "4"]))
    pairs = []
    for name in ("0", "4"):
        low = ours.get_submodule(name).parametrizations.weight[0]
        layer = theirs.get_submodule(f"base_model.model.{name}")
        for mine, part in ((low.a, layer.lora_A), (low.b, layer.lora_B)):
            weight = part["default"].weight
            weight.data = mine.data.view_as(weight)
            pairs.append((mine, weight))
    a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b)
    a.square().sum().backward()
    b.square().sum().backward()
    for mine, weight in pairs:
        torch.testing.assert_close(mine.grad.view_as(weight), weight.grad)
