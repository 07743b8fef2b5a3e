"""The DeepCluster family: plans, losses, special cases."""

import pytest
import torch
import torch.nn.functional as F

from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.errors import UsageError
from glocal.methods.deepcluster import DeepCluster
from glocal.methods.deepcluster_v2 import DeepClusterV2
from glocal.methods.deepercluster import DeeperCluster, turned
from glocal.training.optimizers import build_optimizer
from glocal.views import Appearance, Batch, PlainImages, Recipe, View, ViewLoader

IMAGES = 24


def build(cls, **options):
    torch.manual_seed(0)
    return cls(build_backbone("test_resnet", image_size=32), image_size=32, **options)


def bank_of(method):
    loader = ViewLoader(open_source(f"parts:n={IMAGES},size=40"), Recipe(()), batch_size=10, seed=0)
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0)
    return PlainImages(loader, 32, appearance, device=torch.device("cpu"))


def batch_of(plan, images=8, views=1):
    pixels = [torch.randn(images, 3, 32, 32, generator=torch.Generator().manual_seed(v)) for v in range(views)]
    batch = Batch([View(p, torch.zeros(images, 2, 3)) for p in pixels], torch.arange(images) * 2)
    return plan.with_targets(batch)


def test_the_bank_has_every_image_once_whole_and_plain():
    method = build(DeepCluster, clusters=4, components=3)
    bank = bank_of(method)
    batches = list(bank)
    assert torch.cat([b.index for b in batches]).tolist() == list(range(IMAGES))
    image = torch.from_numpy(open_source(f"parts:n={IMAGES},size=40").open(3).decode(1.0))
    whole = batches[0].views[0].pixels[3] * torch.tensor(method.encoder.std)[:, None, None]
    whole = whole + torch.tensor(method.encoder.mean)[:, None, None]
    resized = F.interpolate(image.permute(2, 0, 1)[None] / 255, (32, 32), mode="bicubic", antialias=True)[0]
    torch.testing.assert_close(whole, resized.clamp(0, 1), rtol=0, atol=0.02)


def test_deepcluster_learns_its_clusters_served_equally_with_a_new_classifier():
    method = build(DeepCluster, clusters=4, components=3)
    before, training = method.top.weight.clone(), method.training
    plan = method.before_epoch(bank_of(method))
    assert method.training == training
    served = torch.bincount(plan.targets[0][plan.order])
    assert len(plan.order) == IMAGES
    assert served.max() - served[served > 0].min() <= 1
    assert not torch.equal(before, method.top.weight)
    assert method.top.weight.std().item() == pytest.approx(0.01, rel=0.2)
    batch = batch_of(plan)
    logits = method.encoder(batch.views[0].pixels).pooled @ method.top.weight[0].T + method.top.bias[0]
    assert torch.equal(batch.target[:, 0], plan.targets[0][batch.index])
    torch.testing.assert_close(method(batch).total, F.cross_entropy(logits, batch.target[:, 0]), rtol=1e-4, atol=1e-5)


def test_the_new_classifier_has_no_momentum():
    method = build(DeepCluster, clusters=4, components=3)
    groups = build_optimizer(method, method.optimization, 1.0).param_groups
    momentum = {p: group["momentum"] for group in groups for p in group["params"]}
    for name, parameter in method.named_parameters():
        assert momentum[parameter] == (0.0 if name.startswith("top.") else 0.9), name


def test_more_clusters_than_images_are_a_users_mistake():
    for method in (
        build(DeepCluster, clusters=IMAGES + 1, components=3),
        build(DeeperCluster, clusters=2 * (IMAGES // 2 + 1), super_clusters=2, components=3),
    ):
        with pytest.raises(UsageError, match=f"clusters of {IMAGES} images"):
            method.before_epoch(bank_of(method))


def test_empty_clusters_have_no_part():
    method = build(DeepCluster, clusters=6, components=3)
    method.top.renew(0, torch.tensor([[True, True, False, True, False, True]]))
    x, target = torch.randn(5, method.encoder.dim), torch.tensor([0, 1, 3, 5, 0])
    left = torch.tensor([0, 1, 3, 5])
    logits = x @ method.top.weight[0, left].T
    expected = F.cross_entropy(logits, torch.searchsorted(left, target))
    torch.testing.assert_close(F.cross_entropy(method.top(x, torch.zeros_like(target)), target), expected)


def test_one_cluster_with_turns_is_rotnet():
    method = build(DeeperCluster, clusters=1, super_clusters=1, components=3)
    batch = batch_of(method.before_epoch(bank_of(method)))
    torch.manual_seed(5)
    loss = method(batch)
    torch.manual_seed(5)
    turn = torch.randint(4, (8,))
    images = torch.stack(
        [image.rot90(t, (1, 2)) for image, t in zip(batch.views[0].pixels, turn.tolist(), strict=True)]
    )
    logits = F.linear(method.encoder(images).pooled, method.super.weight[0], method.super.bias[0])
    torch.testing.assert_close(loss.total, F.cross_entropy(logits, turn), rtol=1e-4, atol=1e-5)
    assert loss.terms["sub"] == 0


def test_one_super_cluster_without_turns_is_deepcluster():
    deeper = build(DeeperCluster, clusters=4, super_clusters=1, rotate=False, components=3)
    flat = build(DeepCluster, clusters=4, components=3)
    plan = deeper.before_epoch(bank_of(deeper))
    flat.top.load_state_dict(deeper.sub.state_dict())
    one, other = deeper(batch_of(plan)), batch_of(plan)
    other.target = other.target[:, 1:]
    loss = flat(other).total
    torch.testing.assert_close(one.total, loss)
    assert one.terms["super"] == 0
    one.total.backward()
    loss.backward()
    for a, b in zip(deeper.encoder.parameters(), flat.encoder.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_each_sub_classifier_learns_from_its_own_super_class():
    method = build(DeeperCluster, clusters=6, super_clusters=2, components=3)
    plan = method.before_epoch(bank_of(method))
    batch = batch_of(plan)
    torch.manual_seed(5)
    loss = method(batch).terms["sub"]
    torch.manual_seed(5)
    turn = torch.randint(4, (8,))
    x = method.encoder(turned(batch.views[0].pixels, turn)).pooled
    losses = []
    for row, (part, sub) in enumerate(batch.target.tolist()):
        group = part * 4 + int(turn[row])
        logits = x[row] @ method.sub.weight[group].T + method.sub.log_present[group]
        losses.append(F.cross_entropy(logits[None], torch.tensor([sub])))
    torch.testing.assert_close(loss, torch.stack(losses).mean().detach(), rtol=1e-4, atol=1e-5)


def test_deepercluster_keeps_its_clusters_for_some_epochs():
    method, plans = build(DeeperCluster, clusters=4, super_clusters=2, components=3, every=2), []
    bank = bank_of(method)
    for bank.epoch in range(3):
        plans.append(bank.plan)
        bank.plan = method.before_epoch(bank)
        assert bool(bank.plan.renewed) == (bank.epoch % 2 == 0)
        if bank.epoch == 1:
            assert torch.equal(bank.plan.targets, plans[1].targets)
            assert not torch.equal(bank.plan.order, plans[1].order)


def surprise(logits, target):
    """−log of the target's share, number by number."""
    shares = [torch.exp(logit) for logit in logits]
    return -torch.log(shares[target] / sum(shares))


@pytest.mark.parity("deepcluster", "deepercluster", "deepcluster_v2", oracle="naive float64 loops")
@pytest.mark.parametrize("cls", [DeepCluster, DeeperCluster, DeepClusterV2])
def test_the_loss_is_the_cross_entropy_of_each_image(cls):
    few = {"small_crops": 0, "projector": (16, 8), "prototypes": 5} if cls is DeepClusterV2 else {"clusters": 6}
    if cls is DeeperCluster:
        few |= {"super_clusters": 2}
    method = build(cls, **few, **({"components": 3} if cls is not DeepClusterV2 else {}))
    plan = method.before_epoch(bank_of(method))
    method, batch = method.double(), batch_of(plan, images=4, views=2 if cls is DeepClusterV2 else 1)
    views = [view.pixels.double() for view in batch.views]
    for view, pixels in zip(batch.views, views, strict=True):
        view.pixels = pixels
    torch.manual_seed(5)
    loss = method(batch).total
    torch.manual_seed(5)
    terms = []
    if cls is DeepClusterV2:
        pooled = method.encoder(torch.cat(views)).pooled
        for k, head in enumerate(method.prototypes):
            for row, z in enumerate(method.projector(pooled)):
                terms.append(surprise(head.weight @ z / z.norm() / 0.1, batch.target[row % 4, k]) / 3 / 8)
    elif cls is DeepCluster:
        for x, (target,) in zip(method.encoder(views[0]).pooled, batch.target, strict=True):
            terms.append(surprise(method.top.weight[0] @ x + method.top.bias[0], target) / 4)
    else:
        turn = torch.randint(4, (4,))
        images = torch.stack([image.rot90(int(t), (1, 2)) for image, t in zip(views[0], turn, strict=True)])
        for x, t, (part, sub) in zip(method.encoder(images).pooled, turn, batch.target, strict=True):
            group, top = 4 * part + t, method.sub
            terms.append(surprise(method.super.weight[0] @ x + method.super.bias[0], group) / 4)
            logits = top.weight[group] @ x + top.bias[group] + top.log_present[group]
            terms.append(surprise(logits, sub) / 4)
    learning = [p for p in method.parameters() if p.requires_grad]
    torch.testing.assert_close(loss, sum(terms))
    for a, b in zip(*(torch.autograd.grad(total, learning) for total in (loss, sum(terms))), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def test_v2_predicts_the_clusters_of_its_memory():
    method = build(DeepClusterV2, small_crops=0, projector=(16, 8), prototypes=5)
    plan = method.before_epoch(bank_of(method))
    memory = method.memory.embeddings
    assert memory.shape == (2, IMAGES, 8)
    for head, targets in zip(method.prototypes, plan.targets, strict=True):
        assert not head.weight.requires_grad
        torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(5))
        assert torch.equal((memory[0] @ head.weight.T).argmax(dim=1), targets)
    before = memory.clone()
    batch = batch_of(plan, views=2)
    loss = method(batch).total
    seen = torch.zeros(IMAGES, dtype=torch.bool).index_fill(0, batch.index, True)
    assert torch.equal(memory[:, ~seen], before[:, ~seen])
    assert not torch.isclose(memory[:, seen], before[:, seen]).all()
    z, terms = memory[:, batch.index], []
    for head, targets in zip(method.prototypes, plan.targets, strict=True):
        terms += [F.cross_entropy(crop @ head.weight.T / 0.1, targets[batch.index]) for crop in z]
    torch.testing.assert_close(loss, torch.stack(terms).mean(), rtol=1e-4, atol=1e-5)
    again = build(DeepClusterV2, small_crops=0, projector=(16, 8), prototypes=5)
    again.load_state_dict(method.state_dict())
    assert torch.equal(again.memory.embeddings, memory)


@pytest.mark.parametrize("cls", [DeepCluster, DeeperCluster])
def test_alexnet_is_clustered_by_its_fully_connected_output_which_is_trained(cls):
    torch.manual_seed(0)
    backbone = build_backbone("sobel_alexnet", image_size=96)
    method = cls(backbone, image_size=96, clusters=4, components=3, hidden=(12, 10))
    first, last = (layer for layer in method.hidden.layers if isinstance(layer, torch.nn.Linear))
    assert (first.in_features, first.out_features, last.out_features) == (256 * 2 * 2, 12, 10)
    image = View(torch.linspace(-1, 1, 6 * 3 * 96 * 96).view(6, 3, 96, 96), torch.zeros(6, 2, 3))
    clustered = method.eval().hidden(method.encoder(image.pixels))
    assert clustered.shape == (6, 10)
    assert clustered.min() < 0  # before the last ReLU
    seen = []
    next(m for name, m in method.named_children() if name in ("top", "sub")).register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0])
    )
    targets = {DeepCluster: [[0], [1], [2], [3], [0], [1]], DeeperCluster: [[0, 0], [1, 0], [2, 0], [3, 0]] * 2}[cls]
    method(Batch([image], torch.arange(6), target=torch.tensor(targets[:6]))).total.backward()
    if cls is DeepCluster:
        torch.testing.assert_close(seen[0], clustered.relu())
    assert seen[0].min() == 0
    assert all(p.grad is not None for p in method.parameters())


def test_the_papers_networks_have_fully_connected_layers_and_others_do_not():
    alexnet = DeepCluster(build_backbone("sobel_alexnet", image_size=224), image_size=224, clusters=4)
    assert [tuple(p.shape) for p in alexnet.hidden.parameters() if p.ndim > 1] == [(4096, 256 * 6 * 6), (4096, 4096)]
    assert alexnet.top.weight.shape[2] == 4096
    vgg = DeepCluster(build_backbone("sobel_vgg16_bn", image_size=64), image_size=64, clusters=4)
    assert [tuple(p.shape) for p in vgg.hidden.parameters() if p.ndim > 1] == [(4096, 512 * 2 * 2), (4096, 4096)]
    assert vgg.top.weight.shape[2] == 4096
    resnet = build(DeepCluster, clusters=4)
    assert list(resnet.hidden.parameters()) == []
    assert resnet.top.weight.shape[2] == resnet.encoder.dim


def test_sobel_vgg_has_the_papers_convolutions_alone():
    backbone = build_backbone("sobel_vgg16_bn", image_size=64)
    assert sum(p.numel() for p in backbone.parameters()) == 14_722_560
    features = backbone.eval()(torch.zeros(1, 3, 64, 64))
    assert features.grid == (2, 2)
    torch.testing.assert_close(features.pooled, features.tokens.mean(1))
