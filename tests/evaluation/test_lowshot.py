"""Few labels: the draws, scikit-learn's logistic regression on them, and a class that has too few."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import StandardScaler

from glocal.errors import UsageError
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.lowshot import draw_labelled


def context(made, count=90, labels=None):
    images, own = made.coloured(count, 0)
    test_images, test_labels = made.coloured(30, 1)
    noise = np.random.default_rng(2).integers(-90, 90, (len(test_images), 1, 1, 3))
    test_images = (test_images + noise).clip(0, 255).astype(np.uint8)
    train = made.ArraySource(images, own if labels is None else labels)
    return EvalContext(made.Cells(), train, made.ArraySource(test_images, test_labels), 32)


def test_draws_are_balanced_differ_and_repeat():
    labels = np.repeat([0, 1, 2], [10, 200, 50])
    rows = draw_labelled(labels, 5, 0, 0)
    assert np.bincount(labels[rows]).tolist() == [5, 5, 5]
    assert len(set(rows.tolist())) == 15
    assert np.bincount(labels[draw_labelled(labels, 0.1, 0, 0)]).tolist() == [1, 20, 5]
    assert np.bincount(labels[draw_labelled(labels, 0.01, 0, 0)]).tolist() == [1, 2, 1]
    assert np.array_equal(rows, draw_labelled(labels, 5, 0, 0))
    assert not np.array_equal(rows, draw_labelled(labels, 5, 0, 1))
    assert not np.array_equal(rows, draw_labelled(labels, 5, 1, 0))


def test_it_is_scikit_learns_on_the_same_draws(made):
    asked = context(made)
    found = find_task("lowshot")(asked, shots=(2,), shares=(0.1,), draws=3)
    train, test = asked.bank("train"), asked.bank("test")
    labels, truth = train.labels.numpy(), test.labels.numpy()
    # our standardisation adds 1e-5 to the variance; theirs, of the same features in double
    scale = StandardScaler().fit(train.pooled.double().numpy())
    scale.scale_ = np.sqrt(scale.var_ + 1e-5)
    x, queries = scale.transform(train.pooled.numpy()), scale.transform(test.pooled.numpy())
    for number, name in ((2, "2"), (0.1, "10%")):
        logistic, near = [], []
        for draw in range(3):
            rows = draw_labelled(labels, number, 0, draw)
            fitted = LogisticRegression(max_iter=1000).fit(x[rows], labels[rows])
            logistic.append((fitted.predict(queries) == truth).mean())
            votes = KNeighborsClassifier(
                2 if name == "2" else 3, metric="cosine", algorithm="brute", weights=lambda d: np.exp((1 - d) / 0.07)
            ).fit(train.pooled.numpy()[rows], labels[rows])
            near.append((votes.predict(test.pooled.numpy()) == truth).mean())
        assert found[f"logistic_{name}"] == pytest.approx(np.mean(logistic))
        assert found["sd"][f"logistic_{name}"] == pytest.approx(np.std(logistic, ddof=1))
        assert found[f"knn_{name}"] == pytest.approx(np.mean(near))
    assert 0.4 < found["logistic_2"] < 1  # else nothing is compared
    assert asked.each.name == "logistic_2"
    assert asked.each.parts[:, 0].mean() == pytest.approx(found["logistic_2"])


def test_a_class_of_fewer_images_than_shots_is_named(made):
    labels = np.repeat([0, 1, 2], [40, 46, 4])
    with pytest.raises(UsageError, match="class '2' has 4 training images, fewer than 10 shots: ask for fewer"):
        find_task("lowshot")(context(made, labels=labels))


@pytest.mark.parametrize("options", [{"shots": (0,)}, {"shares": (1.5,)}, {"draws": 0}, {"shots": (), "shares": ()}])
def test_options_that_make_no_sense(made, options):
    with pytest.raises(UsageError, match="lowshot takes shots of 1 or more"):
        find_task("lowshot")(context(made), **options)
