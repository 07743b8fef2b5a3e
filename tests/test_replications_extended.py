"""Cells that extend released encoders: from few images of each class."""

from __future__ import annotations

import csv
import shutil

import pytest

from glocal.run import Run
from replications.data import place
from replications.extended import few_labels

OPTIONS = {"backbone": "mobilenet_v1_025", "image_size": 32, "shots": 2}


@pytest.fixture
def data(tmp_path, photos, quantised, monkeypatch):
    """Photographs under the name of clothing, and "released" weights."""
    released = quantised("025")
    released.rename(released.with_stem("mobilenet_v1_025"))
    monkeypatch.setenv("GLOCAL_WEIGHTS", str(released.parent))
    for file in photos.glob("*/*/*.*"):
        split, label = file.parts[-3:-1]
        copy = tmp_path / "data" / "clothing" / split / label / f"{split}-{file.name}"
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return tmp_path / "data"


def test_few_images_are_learnt_from_and_another_fold_tested(data, tmp_path):
    for train in ("logistic", "head"):
        folder = tmp_path / train
        folder.mkdir()
        assert 0 <= few_labels(data, folder, 1, {**OPTIONS, "train": train})["accuracy"] <= 1
    rows = [[*csv.reader((tmp_path / train / "few.csv").open())] for train in ("logistic", "head")]
    assert rows[0] == rows[1]  # the same images for both
    assert sorted(label for _, label in rows[0][1:]) == ["ant", "ant", "bee", "bee", "cat", "cat"]
    fold = place(data, "clothing@1")
    assert all(path.startswith(f"{fold}/train/{label}/") for path, label in rows[0][1:])
    assert Run(tmp_path / "head" / "run").config()["train"] == "head"
