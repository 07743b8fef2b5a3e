"""The classification head: what it begins as, learns and writes."""

import csv

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from glocal.adaptation.classify import STRENGTH, Classify
from glocal.data import ArraySource, open_source
from glocal.errors import UsageError
from glocal.features import Features
from glocal.run import Run


@pytest.mark.parametrize("classes", [2, 3])
def test_it_begins_as_logistic_regression(classes):
    draw = np.random.default_rng(0)
    labels = np.arange(30) % classes
    x = draw.normal(size=(30, 6)) * 3 + 5 + labels[:, None]
    source = ArraySource(np.zeros((30, 4, 4, 3), np.uint8))
    source.labels, source.classes = labels, ["a", "b", "c"][:classes]
    head = Classify(6, source.classes)
    head.begin(torch.from_numpy(x).float(), source, torch.arange(30))
    scaled = StandardScaler().fit(x)
    expected = LogisticRegression(C=STRENGTH, max_iter=1000).fit(scaled.transform(x), labels)
    fresh = draw.normal(size=(9, 6)) * 3 + 6
    logits = head(Features(torch.from_numpy(fresh).float(), torch.empty(0), torch.empty(0)))
    shares = logits.softmax(1).detach().numpy()
    np.testing.assert_allclose(shares, expected.predict_proba(scaled.transform(fresh)), atol=1e-3)


def test_it_learns_the_generated_classes(classifier):
    found = Run(classifier).scores()
    assert found["meta"]["n_test"] == 32
    assert found["classify"]["top1"] > 0.8, "of two classes, chance is .5 with a deviation of .0884"
    checked = [line["validation/top1"] for line in Run(classifier).metrics() if "validation/top1" in line]
    assert len(checked) > 5
    assert checked[-1] == found["classify"]["top1"]


def test_labels_of_another_collection_are_numbered_as_its_own():
    source = open_source("parts:n=4,size=16,classes=2")
    known = Classify.read(source, ["B", "C", "A"]).source
    assert [known.classes[k] for k in known.labels] == [source.classes[k] for k in source.labels]
    with pytest.raises(UsageError, match="'B'"):
        Classify.read(source, ["A", "C"])


def test_the_table_is_a_list_of_files_itself(tmp_path):
    head = Classify(4, ["cat, wild", "dog"])
    (tmp_path / "x").mkdir()
    open(tmp_path / "x" / "é.png", "w").close()
    head.write(tmp_path / "labels.csv", [("x/é.png", np.array([0.75, 0.25]))])
    header, row = csv.reader((tmp_path / "labels.csv").read_text(encoding="utf-8").splitlines())
    assert header == ["image_path", "label", "probability", "p(cat, wild)", "p(dog)"]
    assert row == ["x/é.png", "cat, wild", "0.75", "0.75", "0.25"]
    with pytest.raises(UsageError, match="nothing usable"):  # it is no image: but the list was read
        open_source(str(tmp_path / "labels.csv"))
    with pytest.raises(UsageError, match=r"in \.csv"):
        head.write(tmp_path / "labels.xlsx", [])
