"""Fusion with neighbours, and the classifier that looks at a memory."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.neighbors import KNeighborsClassifier

from glocal.heads.neighbour_fusion import NeighbourClassifier, NeighbourFusion


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def trained(module):
    """All parameters drawn: what starts at zero would hide what it does."""
    for n, parameter in enumerate(module.parameters()):
        parameter.data = 0.2 * drawn(*parameter.shape, seed=n)
    return module.double()


@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_order_of_the_neighbours_does_not_matter(layers):
    fusion = trained(NeighbourFusion(16, layers))
    query, near, about = drawn(3, 16).double(), drawn(3, 5, 16, seed=1).double(), drawn(3, 5, 16, seed=2).double()
    order = torch.tensor([3, 0, 4, 2, 1])
    weight = drawn(3, 16, seed=3).double()
    found = []
    for at in (torch.arange(5), order):
        given = near[:, at].requires_grad_()
        out = fusion(query, given, about[:, at])
        (gradient,) = torch.autograd.grad((out * weight).sum(), given)
        found.append((out, gradient[:, at.argsort()]))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)
    changed = fusion(query, near + torch.eye(16).double()[0], about)
    assert (changed - found[0][0]).abs().max() > 1e-3


def test_one_neighbour_without_layers_is_the_nearest_neighbour():
    bank, labels = F.normalize(drawn(40, 8), dim=1), np.random.default_rng(1).integers(0, 4, 40)
    queries = F.normalize(drawn(25, 8, seed=2), dim=1)
    nearest = (queries @ bank.T).argmax(1)
    fused = NeighbourFusion(8, layers=0)(queries, bank[nearest, None])
    said = labels[(fused @ bank.T).argmax(1).numpy()]
    oracle = KNeighborsClassifier(1).fit(bank.numpy(), labels)
    np.testing.assert_array_equal(said, oracle.predict(queries.numpy()))
    model = NeighbourClassifier(8, 4, neighbours=1, layers=0)
    model.remember(bank, torch.from_numpy(labels), torch.arange(40))
    model.weight.data = drawn(4, 8, seed=3)
    expected = model.scale.exp() * bank[nearest] @ F.normalize(model.weight, dim=1).T
    torch.testing.assert_close(model(queries), expected)


def test_before_training_the_query_comes_out_as_it_went_in():
    query = drawn(3, 16)
    assert torch.equal(NeighbourFusion(16, 2)(query, drawn(3, 5, 16, seed=1)), query)


def test_an_exemplar_does_not_look_at_itself():
    model = trained(NeighbourClassifier(8, 3, neighbours=2)).float()
    bank, labels = drawn(6, 8), torch.tensor([0, 1, 2, 0, 1, 2])
    model.remember(bank, labels, torch.tensor([10, 11, 12, 13, 14, 15]))
    without = NeighbourClassifier(8, 3, neighbours=2)
    without.load_state_dict(model.state_dict())
    assert torch.equal(without.memory, model.memory), "the memory is loaded, in its size"
    others = torch.tensor([0, 1, 3, 4, 5])
    without.remember(bank[others], labels[others], others)
    torch.testing.assert_close(model(bank[2:3], torch.tensor([[12]])), without(bank[2:3]))
    assert (model(bank[2:3]) - without(bank[2:3])).abs().max() > 1e-4


def test_the_vectors_of_classes_begin_as_their_means():
    model, x = NeighbourClassifier(4, 3), drawn(10, 4)
    y = torch.tensor([0, 2] * 5)
    model.begin(x, y)
    for k in (0, 2):
        mean = sum(row / row.norm() for row in x[y == k])
        torch.testing.assert_close(model.weight[k], mean / mean.norm())
    assert not model.weight[1].any()


def test_without_neighbours_the_query_stays():
    query = drawn(3, 16)
    for layers in (0, 1):
        assert torch.equal(NeighbourFusion(16, layers)(query, query[:, None][:, :0]), query)


def test_what_was_learnt_of_the_first_classes_is_gone_on_from():
    past, model = NeighbourClassifier(4, 3), NeighbourClassifier(4, 5)
    for n, each in enumerate(past.parameters()):
        torch.nn.init.constant_(each, n + 0.5)
    past.remember(drawn(2, 4), torch.arange(2), torch.arange(2))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.go_on_from(past)
    for name, learnt in past.state_dict().items():
        mine = model.state_dict()[name]
        if name in ("memory", "labels", "index"):
            assert torch.equal(mine, before[name])
        elif learnt.ndim:
            assert torch.equal(mine[: len(learnt)], learnt)
            assert torch.equal(mine[len(learnt) :], before[name][len(learnt) :])
        else:
            assert torch.equal(mine, learnt)


@pytest.mark.parametrize("layers", [1, 2])
def test_the_query_is_one_of_what_it_looks_at(layers):
    """One more of the same changes no mean, so copies of the query beside it are as nothing."""
    fusion, query = trained(NeighbourFusion(16, layers)), drawn(3, 16).double()
    alone = fusion(query, query[:, None][:, :0])
    torch.testing.assert_close(fusion(query, query[:, None].repeat(1, 4, 1)), alone)
    assert (fusion(query, drawn(3, 4, 16, seed=1).double()) - alone).abs().max() > 1e-3
