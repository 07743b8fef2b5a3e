"""Masks on weights: against the paper's equations, torch's pruning, and what is said of them."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from glocal.adaptation.masks import (
    Masked,
    Scored,
    add_pruning,
    add_scores,
    largest,
    load_mask,
    masked_layers,
    rates_of_scores,
    read_mask,
    save_mask,
    storage,
)
from glocal.backbones import build_backbone, save_encoder
from glocal.backbones.fold import fold
from glocal.errors import UsageError
from glocal.methods import Optimization, ema_copy
from glocal.run import Run
from glocal.training.optimizers import build_optimizer, set_rates


def drawn(*shape, seed=1, dtype=torch.float32):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).to(dtype)


def backbone(seed=0, name="test_resnet"):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build_backbone(name, image_size=32)


def scored(encoder) -> list[Masked]:
    return [module for module in encoder.model.modules() if isinstance(module, Masked)]


def random_scores(encoder):
    """An encoder with a mask that leaves out some 30%."""
    add_scores(encoder)
    for seed, part in enumerate(scored(encoder)):
        part.scores.data = drawn(*part.scores.shape, seed=seed, dtype=part.scores.dtype) + 0.5
    return encoder


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_at_first_nothing_changes_to_the_bit_and_only_scores_train(name):
    encoder = backbone(name=name)
    x, names, base = drawn(2, 3, 32, 32), list(encoder.state_dict()), copy.deepcopy(encoder).eval()
    add_scores(encoder)
    encoder.train()
    with torch.no_grad():
        assert torch.equal(encoder(x).tokens, base(x).tokens)  # in training, too: its statistics are the base's
    assert all(name.endswith(".scores") for name, p in encoder.named_parameters() if p.requires_grad)
    fold(encoder)
    assert list(encoder.state_dict()) == names
    assert all(torch.equal(x, base.state_dict()[key]) for key, x in encoder.state_dict().items())


def test_values_and_gradients_are_those_of_the_equations():
    """w = α θ M, α = 1/√(mean M); dL/dS := dL/dM, by hand: α θ g − ½ mean(M)^(−3/2) / n · Σ θ M g."""
    theta, scores, g = (drawn(4, 3, 2, 2, seed=seed, dtype=torch.float64) for seed in (1, 2, 3))
    part = Scored(theta, 0)
    part.scores = nn.Parameter(scores)
    mask = (scores.numpy() > 0).astype(float)
    share = mask.mean()
    w = part(theta)
    np.testing.assert_allclose(w.detach(), theta * mask / share**0.5, rtol=1e-12)
    w.backward(g)
    by_alpha = -0.5 * share**-1.5 / mask.size * (theta * mask * g).sum()
    np.testing.assert_allclose(part.scores.grad, theta * g / share**0.5 + by_alpha, rtol=1e-10)


def trained_masks(rate=1.0, factor=1.0, shift=0.0, steps=12):
    """The bits of a small network after each step of SGD with momentum, scores begun at factor + shift."""
    encoder = backbone().double()  # the sum 4 + s is rounded
    add_scores(encoder)
    for part in scored(encoder):
        part.scores.data.mul_(factor).add_(shift)
        part.threshold = shift
    parameters = [part.scores for part in scored(encoder)]
    optimizer = torch.optim.SGD(parameters, lr=rate * factor, momentum=0.9)
    found = []
    for step in range(steps):
        x, wanted = (drawn(2, *rest, seed=step, dtype=torch.float64) for rest in ((3, 32, 32), (encoder.dim,)))
        (encoder(x).pooled - wanted).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(torch.cat([part.kept.flatten() for part in scored(encoder)]))
    return torch.stack(found)


def test_the_paper_s_theorems_hold_bit_for_bit():
    """Only S₀ − µ counts, and only λ / S₀."""
    rate = 2.0**12
    masks = trained_masks(rate)
    assert 0.01 < 1 - masks[-1].float().mean() < 0.9
    assert (masks[1:] ^ masks[:-1]).any(1).sum() > 10
    assert torch.equal(trained_masks(rate, factor=8.0), masks)
    assert torch.equal(trained_masks(rate, shift=4.0), masks)


def test_folded_it_is_a_plain_network_of_the_same_modules_and_output():
    encoder, x, base = random_scores(backbone()).eval(), drawn(2, 3, 32, 32), backbone()
    expected = encoder(x)
    folded = copy.deepcopy(encoder)
    fold(folded)
    assert torch.equal(folded(x).tokens, expected.tokens)
    assert {n: type(m) for n, m in folded.named_modules()} == {n: type(m) for n, m in base.named_modules()}
    assert not any(parametrize.is_parametrized(m) for m in folded.modules())
    base.load_state_dict(folded.state_dict())
    assert torch.equal(base.eval()(x).tokens, expected.tokens)
    assert torch.equal(encoder(x).tokens, expected.tokens)  # of the one that was copied nothing changed
    assert not folded._forward_pre_hooks
    assert len(encoder._forward_pre_hooks) == 1
    folded.train()(x)
    assert any(m.training for m in folded.modules() if isinstance(m, nn.BatchNorm2d))


def test_a_teacher_follows_with_scores_of_its_own():
    encoder = random_scores(backbone())
    teacher = ema_copy(encoder)
    assert len(list(teacher.parameters())) == len(list(encoder.parameters()))
    assert not any(p.requires_grad for p in teacher.parameters())


def test_a_file_applies_to_its_base_and_to_no_other(tmp_path):
    encoder, x, path = random_scores(backbone()).eval(), drawn(2, 3, 32, 32), tmp_path / "mask.npz"
    save_mask(encoder, path)
    bits = read_mask(path).kept
    assert path.stat().st_size < bits.size / 8 + 2000
    assert f"{bits.size:,} weights" in storage(path)
    assert "×32" in storage(path)
    fold(encoder)
    assert torch.equal(load_mask(backbone().eval(), path)(x).tokens, encoder(x).tokens)
    for other in (backbone(seed=1), encoder):
        with pytest.raises(UsageError, match="is of other weights"):
            load_mask(other, path)
    (tmp_path / "none.npz").write_bytes(path.read_bytes()[:100])
    for broken in ("none.npz", "absent.npz"):
        with pytest.raises(UsageError, match="glocal adapt writes one"):
            read_mask(tmp_path / broken)


@pytest.mark.parametrize("share", [1.0, 0.8, 0.2])
def test_pruning_leaves_what_torch_s_leaves(share):
    encoder, theirs = backbone(), backbone()
    add_pruning(encoder, share)
    layers = masked_layers(theirs)
    prune.global_unstructured(
        [(layer, "weight") for layer in layers.values()], pruning_method=prune.L1Unstructured, amount=1 - share
    )
    for name, layer in masked_layers(encoder).items():
        assert torch.equal(layer.weight, layers[name].weight), name
        assert torch.equal(layer.parametrizations.weight[0].kept, layers[name].weight_mask.bool())


def test_rounds_are_nested_and_keep_their_share(tmp_path):
    """Also where weights that are left are 0, or smaller than what was left out."""
    encoder, before = backbone(), None
    total = sum(layer.weight.numel() for layer in masked_layers(encoder).values())
    for number in range(1, 9):
        pruned = backbone()
        add_pruning(pruned, 0.8**number, before)
        parts = scored(pruned)
        kept = torch.cat([part.kept.flatten() for part in parts])
        assert abs(int(kept.sum()) - 0.8**number * total) <= 1
        if before:
            assert not (kept & ~torch.from_numpy(read_mask(Run(before).mask_file).kept)).any()
        for layer in masked_layers(pruned).values():
            layer.parametrizations.weight.original.data *= torch.rand_like(layer.weight) > 0.5
        save_mask(pruned, Run(tmp_path / str(number)).mask_file)
        fold(pruned)
        save_encoder(pruned, before := tmp_path / str(number))


def test_ties_fall_on_so_many_weights_exactly():
    weights = {"a": torch.ones(30), "b": -torch.ones(7, 10)}
    assert sum(int(kept.sum()) for kept in largest(weights, 0.37).values()) == 37


@pytest.mark.parametrize("name", ["sgd", "adamw", "lars"])
def test_what_is_left_out_stays_0_after_momentum_and_decay(name):
    encoder = backbone()
    add_pruning(encoder, 0.3)
    method = nn.ModuleDict({"encoder": encoder})
    optimizer = build_optimizer(method, Optimization(name, lr=0.1, weight_decay=0.1), 0.1)
    begun = {n: layer.weight.detach().clone() for n, layer in masked_layers(encoder).items()}
    for step in range(3):
        encoder(drawn(4, 3, 32, 32, seed=step)).pooled.square().sum().backward()
        for layer in masked_layers(encoder).values():
            weight = layer.parametrizations.weight
            assert not weight.original.grad[~weight[0].kept].any()
        optimizer.step()
        optimizer.zero_grad()
    fold(encoder)
    for n, layer in masked_layers(encoder).items():
        assert torch.equal(layer.weight != 0, begun[n] != 0)
        assert not torch.equal(layer.weight, begun[n])


@pytest.mark.parametrize("lr", [None, 1000.0])
def test_scores_have_the_paper_s_rates_and_heads_theirs(lr):
    spec = rates_of_scores(Optimization("lars", lr=0.3, weight_decay=1e-6, frozen={"prototypes": 1.0}), 64, lr)
    encoder = backbone()
    add_scores(encoder)
    method = nn.ModuleDict({"encoder": encoder, "projector": nn.Linear(3, 3)})
    peak = lr or spec.lr * 64 / 256
    optimizer = build_optimizer(method, spec, peak)
    rates = {p: peak * group["lr_share"] for group in optimizer.param_groups for p in group["params"]}
    assert all(rates[part.scores] == (lr or 50) for part in scored(encoder))
    assert all(rates[p] == pytest.approx(0.15) for p in method["projector"].parameters())
    assert len(rates) == len(scored(encoder)) + 2
    assert spec.frozen == {"prototypes": 1.0}
    assert (spec.warmup_epochs, spec.early) == (40.0, 40 / 150)
    for step, scores, heads in ((0, 1 / 41, 1.0), (19, 20 / 41, 0.96109), (40, 1.0, 0.83488)):  # a step an epoch
        set_rates(optimizer, spec, step, lr=peak, steps=150, warmup_steps=40)
        rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
        assert rates[scored(encoder)[0].scores] == pytest.approx(scores * (lr or 50))
        assert rates[method["projector"].weight] == pytest.approx(0.15 * heads, rel=1e-3)
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0}


def test_scores_spare_depthwise_convolutions_and_pruning_does_not(tmp_path):
    """Whose nine weights a channel carry, where BatchNorm is folded into them, its scale, too."""
    encoder, pruned, again = (backbone(name="mobilenet_v1_025").eval() for _ in range(3))
    random_scores(encoder)
    add_pruning(pruned, 0.5)
    assert (len(scored(encoder)), len(scored(pruned))) == (14, 27)
    assert all(part.scores.shape[1] > 1 for part in scored(encoder))
    save_mask(encoder, tmp_path / "mask.npz")
    fold(encoder)
    x = drawn(1, 3, 32, 32)
    assert torch.equal(load_mask(again, tmp_path / "mask.npz")(x).tokens, encoder(x).tokens)


def test_without_layers_to_mask_it_is_refused():
    encoder = backbone()
    encoder.model = nn.Sequential(nn.BatchNorm2d(3))
    with pytest.raises(UsageError, match="no linear layer and no convolution"):
        add_scores(encoder)
