import numpy as np
import torch
from sklearn.neighbors import KNeighborsClassifier

import glocal.evaluation.knn as file
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.knn import knn_predict, nearest_neighbours


def features(count, seed, dim=8):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(count, dim))).float()


def test_equals_scikit_learns_weighted_vote():
    bank, queries = features(200, 0), features(90, 1)
    labels = torch.from_numpy(np.random.default_rng(2).integers(0, 5, 200))
    for k, temperature in ((1, 0.07), (20, 0.07), (200, 0.5)):
        theirs = KNeighborsClassifier(
            k, metric="cosine", algorithm="brute", weights=lambda d, t=temperature: np.exp((1 - d) / t)
        ).fit(bank.numpy(), labels.numpy())
        ours = knn_predict(queries, bank, labels, k=k, temperature=temperature)
        assert (ours.numpy() == theirs.predict(queries.numpy())).all()


def test_blocks_change_nothing(monkeypatch):
    bank, queries = features(57, 0), features(23, 1)
    whole = nearest_neighbours(queries, bank, 7)
    monkeypatch.setattr(file, "_ROWS", 5)
    monkeypatch.setattr(file, "_COLUMNS", 4)  # fewer than k
    parts = nearest_neighbours(queries, bank, 7)
    torch.testing.assert_close(parts[0], whole[0])
    assert torch.equal(parts[1], whole[1])


def test_more_neighbours_than_images_uses_all(made):
    images, labels = made.coloured(6, 0)
    test_images, test_labels = made.coloured(9, 1)
    context = EvalContext(
        made.Cells(), made.ArraySource(images, labels), made.ArraySource(test_images, test_labels), 32
    )
    scores = find_task("knn")(context, k=50)
    assert scores["k"] == 6
    assert scores["top1"] == 1.0


def test_one_nearest_neighbour_of_the_bank_itself_is_right():
    bank = features(50, 0)
    labels = torch.arange(50) % 7
    assert (knn_predict(bank * 3, bank, labels, k=1) == labels).all()
