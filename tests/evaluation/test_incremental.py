"""Classes that come in steps: herding, means, forgetting, and what each way keeps."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from glocal import random
from glocal.errors import UsageError
from glocal.evaluation.incremental import (
    _learn,
    _predictions,
    class_means,
    distillation,
    forgetting,
    herd,
    herd_classes,
    incremental,
    steps_of,
)
from glocal.heads.neighbour_fusion import NeighbourClassifier


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def test_herding_is_greedy_towards_the_mean():
    x = drawn(12, 3).numpy().astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    chosen = []
    for _ in range(5):
        left = [i for i in range(12) if i not in chosen]
        chosen.append(min(left, key=lambda i: np.linalg.norm(x.mean(0) - x[[*chosen, i]].mean(0))))
    assert herd(torch.from_numpy(3 * x), 5).tolist() == chosen
    assert sorted(herd(torch.from_numpy(x), 50).tolist()) == list(range(12))


def test_exemplars_of_each_class():
    x, y = drawn(20, 3), torch.tensor([2, 5] * 10)
    rows = herd_classes(x, y, 4)
    assert y[rows].tolist() == [2] * 4 + [5] * 4
    assert rows[:4].tolist() == (2 * herd(x[::2], 4)).tolist()


def test_class_means_are_those_of_a_loop():
    x, y = drawn(15, 4), torch.arange(15) % 3
    found = class_means(x, y, 4)
    for k in range(3):
        total = torch.zeros(4)
        for row, label in zip(x, y, strict=True):
            total += (row / row.norm()) * (label == k)
        torch.testing.assert_close(found[k], total / total.norm())
    queries, loop = drawn(9, 4, seed=1), []
    for query in queries:
        loop.append(max(range(3), key=lambda k: float(query @ found[k])))
    assert (queries @ found[:3].T).argmax(1).tolist() == loop
    assert not found[3].any()


def test_distillation_and_its_gradient():
    logits, before = drawn(4, 5).double().requires_grad_(), drawn(4, 3, seed=1).double()
    loss = distillation(logits, before)
    p, q = before.softmax(1), logits[:, :3].softmax(1)
    torch.testing.assert_close(loss, -(p * q.log()).sum(1))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[:, :3], (q - p).detach())
    assert not gradient[:, 3:].any(), "of the new classes it says nothing"


def test_a_fusion_learns_a_hundred_times_slower():
    """The first step of Adam is the learning rate, whatever the gradient."""
    x, y = drawn(20, 16), torch.arange(20) % 2
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = NeighbourClassifier(16, 2, neighbours=3)
    model.begin(x, y)
    model.remember(x, y, torch.arange(20))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    _learn(model, None, x, y, torch.arange(20), 0, 2, 0, {"epochs": 1, "lr": 0.01})
    moved = {name: float((p.detach() - before[name]).abs().max()) for name, p in model.named_parameters()}
    slow = [far for name, far in moved.items() if name.startswith("fusion.")]
    assert max(slow) == pytest.approx(1e-4, rel=1e-2)
    assert moved["weight"] == pytest.approx(1e-2, rel=1e-2)
    fused = [p.detach().clone() for p in model.fusion.parameters()]
    _learn(model, None, x, y, torch.arange(20), 1, 2, 0, {"epochs": 1, "lr": 0.01})
    assert all(torch.equal(*pair) for pair in zip(fused, model.fusion.parameters(), strict=True)), "then it stays"


def test_forgetting():
    assert forgetting([[0.9], [0.7, 0.8], [0.4, 0.85, 1.0]]) == pytest.approx(((0.9 - 0.4) + 0) / 2)


def test_classes_come_once_each():
    parts = steps_of(np.repeat(np.arange(7), 3), 3, seed=1)
    assert sorted(np.concatenate(parts).tolist()) == list(range(7))
    assert [len(part) for part in parts] == [3, 2, 2]
    with pytest.raises(UsageError, match="steps is 8, give 2 to 7: there are 7 classes"):
        steps_of(np.arange(7), 8, seed=0)


@pytest.fixture(scope="module")
def found():
    """Six planted classes in three steps: clear ones, whose features lie around directions of their own."""
    draw, banks = np.random.default_rng(0), {}
    centres = draw.normal(size=(6, 16))
    for split, each in (("train", 30), ("test", 30)):
        labels = np.repeat(np.arange(6), each)
        pooled = torch.from_numpy(centres[labels] + draw.normal(size=(len(labels), 16))).float()
        banks[split] = SimpleNamespace(pooled=pooled, labels=torch.from_numpy(labels))
    context = SimpleNamespace(bank=banks.__getitem__, labels=lambda bank: bank.labels, seed=0)
    return context, incremental.run(context, steps=3, memory=5, epochs=20, lr=0.02)


def test_what_is_kept_is_not_forgotten(found):
    _, scores = found
    kept = ("mtn", "replay", "nearest_mean", "joint")
    for way in kept:
        assert scores[way] == pytest.approx(np.mean(scores["accuracy"][way]))
        assert len(scores["accuracy"][way]) == 3
        assert scores["accuracy"][way][-1] > 0.6, "of six classes"
    least = scores["accuracy"]["naive"]
    assert least[-1] < min(scores["accuracy"][way][-1] for way in kept) - 0.05
    assert scores["forgetting"]["naive"] > max(scores["forgetting"][way] for way in kept) + 0.1


def test_it_is_the_same_again(found):
    context, scores = found
    again = incremental.run(context, steps=3, memory=5, epochs=20, lr=0.02, ways=["mtn", "naive"])
    assert again["accuracy"] == {way: scores["accuracy"][way] for way in ("mtn", "naive")}
    with pytest.raises(UsageError, match="ways among mtn"):
        incremental.run(context, ways=["none"])


@pytest.mark.parametrize("way", ["mtn", "replay", "naive", "joint"])
def test_each_way_step_by_step(way, found):
    """What each way is, told once more: whom it learns from, what it looks at, what it keeps to."""
    context, _ = found
    settings = {"neighbours": 3, "layers": 1, "epochs": 2, "lr": 0.2}
    train, queries = context.bank("train"), drawn(2000, 16, seed=5)
    said = [*_predictions(way, train.pooled, train.labels, [2, 4, 6], queries, 5, 7, settings)]

    with torch.random.fork_rng():
        torch.manual_seed(random.derive(7, "incremental"))
        model = NeighbourClassifier(16, 6, neighbours=3 if way == "mtn" else 0, layers=1)
    old = torch.empty(0, dtype=torch.int64)
    for step, (low, high) in enumerate([(0, 2), (2, 4), (4, 6)]):
        of_class = [torch.nonzero(train.labels == k)[:, 0] for k in range(low, high)]
        new = torch.cat(of_class)
        number = {"naive": 0, "joint": 30}.get(way, 5)
        memory = torch.cat([old, *(of[herd(train.pooled[of], number)] for of in of_class)])
        teacher = copy.deepcopy(model) if step and way in ("mtn", "replay") else None
        model.begin(train.pooled[new], train.labels[new])
        model.remember(train.pooled[memory], train.labels[memory], memory)
        slow = [p for name, p in model.named_parameters() if name.startswith("fusion.")]
        fast = [p for name, p in model.named_parameters() if not name.startswith("fusion.")]
        groups = [{"params": fast, "lr": 0.2}, *([{"params": slow, "lr": 0.002}] if slow and not step else [])]
        optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
        rows = torch.cat([old, new])
        heavy = torch.zeros(6).index_add(0, train.labels[rows], torch.ones(len(rows)))
        heavy = len(rows) / (heavy * (heavy > 0).sum()).clamp_min(1)
        for epoch in range(2):
            for at in rows[torch.from_numpy(random.permutation(len(rows), 7, "incremental", low, epoch))].split(64):
                x, y = train.pooled[at], train.labels[at]
                logits = model(x, at[:, None])[:, :high]
                loss = sum(heavy[k] * F.cross_entropy(z[None], k[None]) for z, k in zip(logits, y, strict=True)) / len(
                    at
                )
                if teacher is not None:
                    with torch.no_grad():
                        before = teacher(x, at[:, None])[:, :low].softmax(1)
                    loss = loss - (before * logits[:, :low].log_softmax(1)).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            expected = model(queries)[:, :high].argmax(1)
        assert (said[step] == expected).float().mean() > 0.998, step  # but for rounding
        old = memory


def test_a_step_without_test_images_is_refused(found):
    context, _ = found
    test = context.bank("test")
    some = {"train": context.bank("train"), "test": SimpleNamespace(pooled=test.pooled[:30], labels=test.labels[:30])}
    few = SimpleNamespace(bank=some.__getitem__, labels=lambda bank: bank.labels, seed=0)
    with pytest.raises(UsageError, match="no test image is of the classes of step 1; take fewer steps than 6"):
        incremental.run(few, steps=6, epochs=1)
