"""The method that fine-tuning is: mix-up, class weights, what trains, and what stands still."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torchvision.transforms import v2
from tuned import network

from glocal.adaptation.classify import Classify
from glocal.adaptation.finetune import HEAD_RATE, FineTuning, class_weights
from glocal.adaptation.memory import Neighbours
from glocal.backbones.lora import LowRank
from glocal.training.optimizers import build_optimizer
from glocal.views import Batch, View


def tuning(classes=3, **options):
    encoder = network()
    head = Classify(encoder.dim, [str(k) for k in range(classes)])
    weight = np.random.default_rng(0).normal(size=head.linear.weight.shape)
    head.linear.weight.data = torch.from_numpy(weight).float()
    return FineTuning(encoder, head, image_size=64, **options).eval()


def batch(labels):
    pixels = torch.from_numpy(np.random.default_rng(1).normal(size=(len(labels), 3, 64, 64))).float()
    target = torch.tensor(labels)
    return Batch(
        [View(pixels, torch.eye(2, 3).repeat(len(labels), 1, 1))], torch.arange(len(labels)), extra={"target": target}
    )


def test_mixed_up_loss_is_torchvisions_on_mixed_labels(monkeypatch):
    """Their mix-up rolls the batch by one and blends one-hot labels; ours is told to take the same order and share."""
    model, given = tuning(mixup=0.4), batch([0, 2, 1, 1])
    monkeypatch.setattr(torch, "randperm", lambda n: torch.arange(n).roll(1))
    torch.manual_seed(3)
    loss = model(given).total
    torch.manual_seed(3)
    share = float(torch.distributions.Beta(0.4, 0.4).sample())
    monkeypatch.setattr(torch, "_sample_dirichlet", lambda *_: torch.tensor([[share, 1 - share]]))
    pixels, labels = v2.MixUp(alpha=0.4, num_classes=3)(given.views[0].pixels, given.extra["target"])
    assert 0 < share < 1
    expected = F.cross_entropy(model.head(model.encoder(pixels)), labels)
    torch.testing.assert_close(loss, expected)


def test_mix_up_draws_its_share_and_order_from_the_step():
    model, given = tuning(mixup=1.0), batch([0, 2, 1, 1])
    found = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        found.append(model(given).total.item())
    assert found[0] == found[1] != found[2]


def test_class_weights_count_each_class_alike():
    """The weighted loss over a data set is the mean over classes of their mean losses."""
    labels = [0, 0, 0, 0, 1, 2, 2]
    weights = class_weights(np.bincount(labels))
    plain, weighted = tuning(), tuning(weights=weights)
    given = batch(labels)
    logits = plain.head(plain.encoder(given.views[0].pixels))
    each = F.cross_entropy(logits, given.extra["target"], reduction="none")
    expected = torch.stack([each[given.extra["target"] == k].mean() for k in range(3)]).mean()
    torch.testing.assert_close(weighted(given).total, expected)
    torch.testing.assert_close(plain(given).total, each.mean())


def test_a_class_that_is_absent_weighs_nothing():
    np.testing.assert_allclose(class_weights(np.array([6, 0, 2])), [8 / 12, 0, 2])


@pytest.mark.parametrize("train", ["head", "last", "lora", "all"])
def test_what_trains_and_what_stands_still(train):
    model = tuning(train=train).train()
    before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
    model(batch([0, 1, 2, 0])).total.backward()
    trains = {name for name, p in model.encoder.named_parameters() if p.grad is not None}
    assert model.head.linear.weight.grad is not None
    same = all(torch.equal(value, before[name]) for name, value in model.encoder.state_dict().items())
    assert same == (train != "all"), "only a network that trains as a whole follows the statistics of batches"
    names = {name for name, _ in model.encoder.named_parameters()}
    if train == "all":
        assert trains == names
    elif train == "last":
        assert "model.layer4.0.conv1.weight" in trains
        assert not any(name.startswith(("model.conv1", "model.layer1", "model.layer2")) for name in trains)
    elif train == "lora":
        low = {n for n, m in model.encoder.named_modules() if isinstance(m, LowRank)}
        assert trains == {f"{name}.{part}" for name in low for part in "ab"}
    else:
        assert not trains


def test_learning_rates_fall_from_the_last_layer_to_the_first():
    method = tuning(layer_decay=0.5)
    names = {parameter: name for name, parameter in method.named_parameters()}
    groups = build_optimizer(method, method.optimization, 1.0).param_groups
    rates = {names[parameter]: group["lr_share"] for group in groups for parameter in group["params"]}
    assert {rates[name] for name in rates if name.startswith("head.")} == {HEAD_RATE}
    assert rates["encoder.model.layer4.0.conv1.weight"] == 1
    fused = FineTuning(method.encoder, Neighbours(method.encoder.dim, ["a", "b"]), image_size=32)
    groups = build_optimizer(fused, fused.optimization, 1.0).param_groups
    fusion = {*fused.head.model.fusion.parameters()}
    shares = {p: group["lr_share"] for group in groups for p in group["params"] if p in fusion}
    assert len(shares) == len(fusion)
    assert {*shares.values()} == {HEAD_RATE / 100}
    falls = [rates[f"encoder.model.{name}.weight"] for name in ("layer4.0.conv1", "layer3.0.conv1", "conv1.0")]
    assert falls[0] > falls[1] > falls[2] > 0


def test_a_head_that_goes_on_sees_features_as_the_one_before():
    """Old classes with what was learnt, new ones by their mean, both by the standardisation that the fusion knows."""
    draw = torch.Generator().manual_seed(0)
    few, more = 3 + 2 * torch.randn(20, 8, generator=draw), 5 * torch.randn(30, 8, generator=draw)
    source = SimpleNamespace(labels=np.arange(30) % 3)
    past, head = Neighbours(8, ["a", "b"]), Neighbours(8, ["a", "b", "c"])
    past.begin(few, SimpleNamespace(labels=np.arange(20) % 2), torch.arange(20))
    with torch.no_grad():
        for parameter in past.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw))
    head.begin(more, source, torch.arange(30), past)
    mean, deviation = few.mean(0), (few.var(0, correction=0) + 1e-5).sqrt()
    new = torch.nn.functional.normalize((more[2::3] - mean) / deviation, dim=1).mean(0)
    torch.testing.assert_close(head.model.weight[2], torch.nn.functional.normalize(new, dim=0))
    for name, learnt in past.model.named_parameters():
        mine = head.model.get_parameter(name)
        assert torch.equal(mine[: len(learnt)] if learnt.ndim else mine, learnt), name
