import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import average_precision_score
from sklearn.neighbors import NearestNeighbors

from glocal.data import Groups
from glocal.errors import UsageError
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.retrieve import average_precision


@pytest.mark.parametrize("levels", [4, 10**6])
def test_average_precision_is_scikit_learns_ties_and_all(levels):
    for seed in range(20):
        draw = np.random.default_rng(seed)
        scores = draw.integers(0, levels, 60) / levels
        positive = draw.random(60) < 0.2
        positive[0] = True
        ours = float(average_precision(torch.from_numpy(scores), torch.from_numpy(positive)))
        assert ours == pytest.approx(average_precision_score(positive, scores), abs=1e-12)


def context(made, *, classes=3):
    images, labels = made.coloured(60, 0, classes)
    test_images, test_labels = made.coloured(24, 1, classes)
    noise = np.random.default_rng(2).integers(-120, 120, (len(test_images), 1, 1, 3))
    test_images = (test_images + noise).clip(0, 255).astype(np.uint8)
    sides = made.ArraySource(images, labels), made.ArraySource(test_images, test_labels)
    return EvalContext(made.Cells(), *sides, 32)


def test_precision_and_map_are_scikit_learns(made):
    asked = context(made)
    found = find_task("retrieve")(asked, ks=(1, 7))
    train, test = asked.bank("train"), asked.bank("test")
    same = train.labels[None].numpy() == test.labels[:, None].numpy()
    near = NearestNeighbors(n_neighbors=7, metric="cosine").fit(train.pooled).kneighbors(test.pooled)[1]
    hits = np.take_along_axis(same, near, 1)
    similarity = F.normalize(test.pooled.double()) @ F.normalize(train.pooled.double()).T
    expected = [average_precision_score(row, score) for row, score in zip(same, similarity.numpy(), strict=True)]
    assert found["map"] == pytest.approx(np.mean(expected), abs=1e-6)
    assert 0.4 < found["map"] < 0.95
    assert found["precision_at_1"] == pytest.approx(hits[:, 0].mean())
    assert found["precision_at_7"] == pytest.approx(hits.mean())
    assert found["queries"] == 24
    assert asked.each.parts[:, 0] == pytest.approx(expected, abs=1e-5)


def test_by_a_column_of_groups_the_unknown_do_not_count(made):
    asked = context(made)
    asked.train.groups = {"hue": Groups(["blue", "red"], np.where(asked.train.labels == 0, 1, 0))}
    of = np.where(asked.test.labels == 0, 0, -1)
    of[1] = 1
    asked.test.groups = {"hue": Groups(["red", "green"], of)}  # numbered otherwise; no training image is green
    found = find_task("retrieve")(asked, attribute="hue", ks=(1,))
    assert found["queries"] == (asked.test.labels == 0).sum()
    assert asked.each.index.tolist() == np.flatnonzero(asked.test.labels == 0).tolist()
    by_label = context(made)
    find_task("retrieve")(by_label, ks=(1,))
    assert found["map"] == pytest.approx(by_label.each.parts[asked.each.index, 0].mean())


def test_mistakes_are_one_line(made):
    asked = context(made)
    with pytest.raises(UsageError, match="has no groups 'hue'"):
        find_task("retrieve")(asked, attribute="hue")
    with pytest.raises(UsageError, match=r"looks at \[61\] neighbours"):
        find_task("retrieve")(asked, ks=(61,))
    asked.test.labels = asked.train.labels = None
    with pytest.raises(UsageError, match="needs labels, or a column"):
        find_task("retrieve")(asked)
