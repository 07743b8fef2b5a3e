from __future__ import annotations

import pickle

import numpy as np
import pytest

from glocal.data import open_source
from glocal.data.torchvision import torchvision_splits
from glocal.errors import UsageError


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A CIFAR-10 of two training images a file and four test images, in its real format."""
    torchvision = pytest.importorskip("torchvision")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (14, 3, 32, 32), dtype=np.uint8)
    for k, name in enumerate([f"data_batch_{k}" for k in range(1, 6)] + ["test_batch"]):
        part = slice(2 * k, 2 * k + (4 if name == "test_batch" else 2))
        labels = [i % 10 for i in range(*part.indices(14))]
        (folder / name).write_bytes(pickle.dumps({"data": images[part].reshape(-1, 3072), "labels": labels}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": [f"class {k}" for k in range(10)]}))
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
    return tmp_path, images.transpose(0, 2, 3, 1)


def test_cifar(cifar):
    root, images = cifar
    train, test = open_source(f"torchvision:CIFAR10:{root}"), open_source(f"torchvision:CIFAR10:{root}", split="test")
    assert (len(train), len(test)) == (10, 4)
    assert np.array_equal(np.asarray(train.open(3).decode()), images[3])
    assert np.array_equal(np.asarray(test.open(1).decode()), images[11])
    assert test.labels.tolist() == [0, 1, 2, 3]
    assert train.classes[2] == "class 2"
    assert train.labels.dtype == np.int64


def test_data_that_is_not_there_says_how_to_get_it(tmp_path):
    with pytest.raises(UsageError, match="download=True") as error:
        open_source(f"torchvision:CIFAR10:{tmp_path}", split="test")
    assert "train=False" in str(error.value)
    assert "\n" not in str(error.value)


def test_splits():
    assert set(torchvision_splits("CIFAR100")) == {None, "train", "test"}
    assert torchvision_splits("OxfordIIITPet")["train"] == {"split": "trainval"}
    assert torchvision_splits("STL10")[None] == {"split": "train+unlabeled"}
    assert set(torchvision_splits("EuroSAT")) == {None, "train"}


def test_every_listed_dataset_takes_these_arguments():
    """A typing mistake in the table would only show when someone has the data."""
    datasets = pytest.importorskip("torchvision.datasets")
    import inspect

    from glocal.data.torchvision import _DATASETS

    for name in _DATASETS:
        parameters = inspect.signature(getattr(datasets, name)).parameters
        for options in torchvision_splits(name).values():
            assert all(key in parameters or name == "QMNIST" for key in options), name
