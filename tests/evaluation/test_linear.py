from itertools import product

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.linear import Training, linear_probe, train_probes
from glocal.evaluation.probe import Probes, Standardise, best

SETTINGS = list(product((0.01, 0.1, 0.5), (0.0, 1e-2)))


def clusters(count, seed, classes=4, dim=10, noise=1.0):
    draw = np.random.default_rng(seed)
    centres = np.random.default_rng(99).normal(size=(classes, dim)) * 2
    y = np.arange(count) % classes
    return torch.from_numpy(centres[y] + noise * draw.normal(size=(count, dim))).float(), torch.from_numpy(y)


def naive(x, y, classes, lr, wd, training):
    """torch.optim.SGD and autograd on one classifier."""
    from glocal import random

    layer = torch.nn.Linear(x.shape[1], classes)
    torch.nn.init.zeros_(layer.weight)
    torch.nn.init.zeros_(layer.bias)
    groups = [{"params": [layer.weight], "weight_decay": wd}, {"params": [layer.bias], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=lr, momentum=0.9)
    steps = training.epochs * -(-len(x) // training.batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(training.epochs):
        order = torch.from_numpy(random.permutation(len(x), training.seed, "linear", epoch))
        for rows in order.split(training.batch_size):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(layer(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return layer


def test_the_grid_equals_each_classifier_trained_alone_by_torch():
    x, y = clusters(70, 0)
    training = Training(epochs=6, batch_size=16, seed=3)
    probes = train_probes(x, y, 4, SETTINGS, training)
    for g, (lr, wd) in enumerate(SETTINGS):
        layer = naive(x, y, 4, lr, wd, training)
        torch.testing.assert_close(probes.weight[:, g].T, layer.weight.detach(), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(probes.bias[g], layer.bias.detach(), atol=1e-5, rtol=1e-4)
        alone = train_probes(x, y, 4, [(lr, wd)], training)
        torch.testing.assert_close(probes.weight[:, g], alone.weight[:, 0], atol=1e-5, rtol=1e-5)


def test_long_training_reaches_logistic_regression():
    x, y = clusters(200, 0, noise=2.5)
    test_x, test_y = clusters(400, 1, noise=2.5)
    standardise, probe, _ = linear_probe(x, y, 4, SETTINGS, Training(100, 50))
    ours = float((probe.logits(standardise(test_x))[:, 0].argmax(-1) == test_y).float().mean())
    theirs = LogisticRegression(max_iter=1000).fit(x.numpy(), y.numpy()).score(test_x.numpy(), test_y.numpy())
    assert abs(ours - theirs) < 0.03
    assert ours > 0.5


def exam_of(made, train_labels=None, test_labels=None):
    (a, la), (b, lb) = made.coloured(60, 0), made.coloured(30, 1)
    train = made.ArraySource(a, la if train_labels is None else train_labels)
    return EvalContext(made.Cells(), train, made.ArraySource(b, lb if test_labels is None else test_labels), 32)


def test_separable_images_are_separated(made):
    scores = find_task("linear")(exam_of(made), epochs=10)
    assert scores["top1"] == scores["balanced"] == scores["validation_top1"] == 1.0


def test_shuffled_labels_give_chance():
    x, y = clusters(300, 0)
    test_x, test_y = clusters(300, 1)
    shuffled = y[torch.from_numpy(np.random.default_rng(0).permutation(300))]
    standardise, probe, chosen = linear_probe(x, shuffled, 4, SETTINGS, Training(10, 64))
    top1 = float((probe.logits(standardise(test_x))[:, 0].argmax(-1) == test_y).float().mean())
    assert top1 < 0.45
    assert chosen["validation_top1"] < 0.45


def test_test_labels_influence_nothing_but_the_score(made):
    truth = find_task("linear")(exam_of(made), epochs=3)
    wrong = find_task("linear")(exam_of(made, test_labels=np.roll(np.arange(30) % 3, 1)), epochs=3)
    assert {k: truth[k] for k in ("lr", "wd", "validation_top1")} == {
        k: wrong[k] for k in ("lr", "wd", "validation_top1")
    }
    assert wrong["top1"] == 0.0


def test_balanced_is_the_mean_recall_of_the_classes(made):
    images, _ = made.coloured(12, 1)
    labels = np.arange(12) % 3
    few = np.array([0, 3, 6, 9, 1, 2])  # four of class 0, one of each other
    claimed = labels[few].copy()
    claimed[-1] = 0  # an image of class 2 called 0
    (a, la) = made.coloured(60, 0)
    context = EvalContext(
        made.Cells(), made.ArraySource(a, la), made.ArraySource(images[few], claimed, classes=["0", "1", "2"]), 32
    )
    scores = find_task("linear")(context, epochs=10)
    assert scores["top1"] == pytest.approx(5 / 6)
    assert scores["balanced"] == pytest.approx((4 / 5 + 1) / 2)


def test_the_same_seed_gives_the_same_scores(made):
    assert find_task("linear")(exam_of(made), epochs=2) == find_task("linear")(exam_of(made), epochs=2)


def test_standardise_is_a_batch_norm_without_affine():
    x, _ = clusters(50, 0)
    norm = torch.nn.BatchNorm1d(10, affine=False)
    torch.testing.assert_close(Standardise.of(x)(x), norm(x), atol=1e-5, rtol=1e-4)


def test_best_prefers_score_then_loss_and_never_a_diverged_one():
    yes = torch.ones(3, dtype=torch.bool)
    assert best(torch.tensor([0.5, 0.7, 0.6]), yes) == 1
    assert best(torch.tensor([0.7, 0.7, 0.6]), yes, torch.tensor([2.0, 1.0, 0.1])) == 1
    assert best(torch.tensor([0.5, 0.9, 0.6]), torch.tensor([True, False, True])) == 2
    assert best(torch.tensor([float("nan"), 0.1, 0.2]), yes) == 2


def test_a_diverging_setting_leaves_the_others_alone():
    x, y = clusters(40, 0)
    training = Training(5, 8)
    both = train_probes(x * 10, y, 4, [(0.01, 0.0), (1e30, 1.0)], training)
    assert both.finite().tolist() == [True, False]
    torch.testing.assert_close(both.weight[:, 0], train_probes(x * 10, y, 4, [(0.01, 0.0)], training).weight[:, 0])


def test_probes_start_at_chance():
    assert (Probes([(0.1, 0.0)], 5, 3).logits(torch.ones(2, 5)) == 0).all()
