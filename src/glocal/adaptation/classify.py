"""Classification: a linear layer on the standardised pooled feature."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from glocal.adaptation.heads import Labelled, Standardised
from glocal.data import Subset
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.features import Features
from glocal.run import write_atomically
from glocal.views import Batch

STRENGTH = 0.01
"""C of the logistic regression that it begins as."""


class Classify(nn.Module):
    """Which class an image is of."""

    needs = "labels"
    main = "top1"
    least_cells = 0
    crop_pct: float | None = 0.875
    scale = (0.35, 1.0)
    few = 100
    lr = 1e-5

    def __init__(self, dim: int, classes: list[str]) -> None:
        super().__init__()
        self.classes = list(classes)
        self.standardised, self.linear = Standardised(dim), nn.Linear(dim, len(classes))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def read(source: ImageSource, classes: list[str] | None = None) -> Labelled:
        """The images that have a label."""
        own, labels = list(source.classes or []), np.asarray(source.labels)
        classes = own if classes is None else classes
        if unknown := sorted({own[k] for k in np.unique(labels[labels >= 0])} - {*classes}):
            raise UsageError(f"{source.name} has images of '{unknown[0]}', of which there are none to learn from")
        if len(classes) < 2:
            raise UsageError(f"{source.name} has {len(classes)} class; a classifier needs two")
        known = Subset(source, np.flatnonzero(labels >= 0))
        position = {name: k for k, name in reversed(list(enumerate(classes)))}
        numbers = np.array([position.get(name, -1) for name in own])
        known.labels, known.classes = numbers[labels[labels >= 0]], classes
        return Labelled(known, classes, np.bincount(known.labels, minlength=len(classes)), _labels)

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K)."""
        return self.linear(self.standardised(features.pooled.float()))

    def looked_at(self, features: Features) -> Tensor:
        """The pooled features, (B, D)."""
        return features.pooled

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """As logistic regression on the features."""
        from sklearn.linear_model import LogisticRegression

        self.standardised.take(seen)
        labels = np.asarray(source.labels)[index]
        if len(there := np.unique(labels)) < 2:
            return
        found = LogisticRegression(C=STRENGTH, max_iter=1000).fit(self.standardised(seen).numpy(), labels)
        weight, bias = (torch.from_numpy(x).float() for x in (found.coef_, found.intercept_))
        if len(there) == 2:  # of which it knows the second only
            weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
        with torch.no_grad():
            self.linear.weight[there], self.linear.bias[there] = weight, bias

    def losses(self, logits: Tensor, target: Tensor, looks: Any) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each image (B,), and its class (B,)."""
        return F.cross_entropy(logits.float(), target, reduction="none"), target

    def answer(self, logits: Tensor, size: tuple[int, int], looks: Any) -> np.ndarray:
        """The probability of each class, (K,)."""
        return logits.float().softmax(0).cpu().numpy()

    def tally(self, answer: np.ndarray, source: ImageSource, i: int) -> np.ndarray:
        """Whether it is right, and 1."""
        assert source.labels is not None
        return np.array([answer.argmax() == source.labels[i], 1], dtype=np.float64)

    def scores(self, tallies: np.ndarray) -> dict[str, float]:
        """The share of images that are right."""
        return {"top1": float(tallies[0] / max(tallies[1], 1))}

    def write(self, out: Path, answers: Iterable[tuple[str, np.ndarray]]) -> None:
        """A table: image_path, label, probability, and the probability of each class. It is itself a list of files."""
        if out.suffix.lower() != ".csv":
            raise UsageError(f"classes are written as a table: end '{out.name}' in .csv")
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["image_path", "label", "probability", *(f"p({name})" for name in self.classes)])
        for key, shares in answers:
            table.writerow([key, self.classes[shares.argmax()], *(f"{p:.6g}" for p in (shares.max(), *shares))])
        write_atomically(out, text.getvalue().encode("utf-8", "backslashreplace").decode())

    def shown(self, image: Image.Image, answer: np.ndarray, scale: float = 1.0) -> tuple[list[Image.Image], str]:
        """The image; the likeliest class and how likely it is."""
        return [image], f"{self.classes[answer.argmax()]} {answer.max():.0%}"


def _labels(batch: Batch) -> Tensor:
    assert batch.label is not None
    return batch.label
