"""The classification datasets of torchvision, by name."""

from typing import Any

import numpy as np

from glocal.data.images import RawImage
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError, did_you_mean


class TorchvisionSource(ImageSource):
    """A dataset of `torchvision.datasets` that is already on disk.

    Args:
        spec: `NAME` or `NAME:ROOT`, e.g. `CIFAR10` or `CIFAR10:/data`; the root is `./data` if not given.
        split: "train", "val" or "test"; None means train (for STL10, its unlabelled images too).
    """

    def __init__(self, spec: str, split: str | None = None):
        self.name, _, root = spec.partition(":")
        root = root or "data"
        choices = torchvision_splits(self.name)
        if split not in choices:
            raise UsageError(f"torchvision:{self.name} has no split {split!r}; it has {', '.join(self.splits(spec))}")
        from torchvision import datasets  # takes a second, and few need it

        try:
            self._data: Any = getattr(datasets, self.name)(root, **choices[split])
        except Exception as error:  # missing files surface as RuntimeError, OSError, or whatever their reader raises
            options = "".join(f", {key}={value!r}" for key, value in choices[split].items())
            raise UsageError(
                f"torchvision:{self.name} is not usable under {root} ({_first_line(error)}); to download it: "
                f'from torchvision.datasets import {self.name}; {self.name}("{root}"{options}, download=True)'
            ) from error
        self.labels = _labels(self._data)
        if self.labels is not None:
            names = getattr(self._data, "classes", None) or range(int(self.labels.max()) + 1)
            self.classes = [str(name) for name in names]

    @staticmethod
    def splits(spec: str) -> list[str]:
        """The names of its splits."""
        return [name for name in torchvision_splits(spec.partition(":")[0]) if name]

    def __len__(self) -> int:
        return len(self._data)

    def key(self, i: int) -> str:
        """The number of image i."""
        return str(i)

    def open(self, i: int) -> RawImage:
        """Image i."""
        try:
            return RawImage(self._data[i][0])
        except Exception as error:
            raise Unreadable(_first_line(error)) from error


def torchvision_splits(name: str) -> dict[str | None, dict[str, Any]]:
    """The splits of a dataset known here, each with the arguments that select it; None is what to pretrain on."""
    if name not in _DATASETS:
        hint = did_you_mean(name, _DATASETS, otherwise=f"; there are {', '.join(sorted(_DATASETS))}")
        raise UsageError(f"unknown dataset torchvision:{name}{hint}")
    return {None: _DATASETS[name]["train"], **_DATASETS[name]}


_BY_FLAG: dict[str | None, dict[str, Any]] = {"train": {"train": True}, "test": {"train": False}}


def _by_name(train: str = "train", **others: str) -> dict[str | None, dict[str, Any]]:
    return {name: {"split": value} for name, value in {"train": train, **others}.items()}


_DATASETS: dict[str, dict[str | None, dict[str, Any]]] = {
    **dict.fromkeys(("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST", "KMNIST", "QMNIST", "USPS"), _BY_FLAG),
    **dict.fromkeys(("SVHN", "Food101", "GTSRB"), _by_name(test="test")),
    **dict.fromkeys(("Flowers102", "DTD", "FGVCAircraft"), _by_name(val="val", test="test")),
    **dict.fromkeys(("ImageNet", "Imagenette"), _by_name(val="val")),
    **{name: {"train": {}} for name in ("EuroSAT", "Caltech101", "Caltech256", "SUN397")},
    "Country211": _by_name(val="valid", test="test"),
    "OxfordIIITPet": _by_name("trainval", test="test"),
    "STL10": {None: {"split": "train+unlabeled"}, **_by_name(test="test")},
}


def _labels(data: Any) -> np.ndarray | None:
    """(N,) labels, wherever this dataset keeps them, or None if some images have none."""
    found = (getattr(data, attribute, None) for attribute in ("targets", "labels", "_labels", "y"))
    labels = next((labels for labels in found if labels is not None), None)
    if labels is None and hasattr(data, "_samples"):
        labels = [sample[1] for sample in data._samples]
    return None if labels is None or min(labels) < 0 else np.asarray(labels).astype(np.int64)


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0].rstrip(". ")
