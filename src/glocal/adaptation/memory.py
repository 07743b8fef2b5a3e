"""Heads that know classes by exemplars, which they keep: for classes that come later."""

import math
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.adaptation.classify import Classify
from glocal.adaptation.heads import Standardised
from glocal.data.source import ImageSource
from glocal.evaluation.extract import extract
from glocal.evaluation.incremental import class_means, herd_classes
from glocal.features import Features
from glocal.heads.neighbour_fusion import SCALE, NeighbourClassifier


def exemplars(
    encoder: Any, head: Any, source: ImageSource, number: int, **options: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """At most `number` images of each class, by herding: features (M, D), classes (M,), positions (M,).

    Herding looks at features as the head does, standardised. `options` are those of `glocal.evaluation.extract.stream`.
    """
    bank = extract(encoder, source, crop_pct=Classify.crop_pct, **options)
    assert bank.labels is not None
    seen = bank.pooled
    if hasattr(head, "standardised"):
        seen = head.standardised(seen.to(head.standardised.mean)).cpu()
    rows = herd_classes(seen, bank.labels, number)
    return bank.pooled[rows], bank.labels[rows], bank.index[rows]


class Neighbours(Classify):
    """Which class an image is of, after a look at the exemplars nearest to it (MTN, Iscen et al. 2022).

    What fuses it with them learns on a head's first classes, and stays when others come: see `FUSION_RATE`.
    """

    lr = 1e-4

    def __init__(self, dim: int, classes: list[str]) -> None:
        nn.Module.__init__(self)
        self.classes = list(classes)
        self.standardised, self.model = Standardised(dim), NeighbourClassifier(dim, len(classes))

    def forward(self, features: Features, index: Tensor | None = None) -> Tensor:
        """Logits (B, K); exemplars of the training images `index` (B, n) are not looked at."""
        return self.model(self.standardised(features.pooled.float()), index)

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor, past: "Neighbours | None" = None) -> None:
        """With the mean of each class; those that a `past` head knew, the first ones, with what it has learnt."""
        if past:
            self.standardised.load_state_dict(past.standardised.state_dict())
        else:
            self.standardised.take(seen)
        self.model.begin(self.standardised(seen), torch.from_numpy(np.asarray(source.labels))[index])
        if past:
            self.model.go_on_from(past.model)

    def remember(self, seen: Tensor, labels: Tensor, index: Tensor) -> None:
        """Look from now on at exemplars: pooled features (M, D), classes (M,), positions (M,)."""
        self.model.remember(self.standardised(seen.to(self.standardised.mean)), labels, index)

    def renumber(self, index: Tensor, chosen: Tensor) -> None:
        """Call what it looks at, of positions `index` (M,), by where they are among those `chosen` (N,), else −1."""
        if len(index) != len(self.model.index):  # somebody has changed the memory's list
            index = torch.full_like(self.model.index, -1)
        same = index.cpu()[:, None] == chosen.cpu()
        self.model.index = torch.where(same.any(1), same.int().argmax(1), -1).to(self.model.index)


class NearestMean(Classify):
    """The class whose exemplars' mean is nearest (Rebuffi et al. 2017); only how sure that is has to be learnt."""

    lr = 1e-4

    means: Tensor

    def __init__(self, dim: int, classes: list[str]) -> None:
        nn.Module.__init__(self)
        self.classes, self.standardised = list(classes), Standardised(dim)
        self.sharpness = nn.Parameter(torch.tensor(math.log(SCALE)))
        self.register_buffer("means", torch.zeros(len(classes), dim))

    def forward(self, features: Features, index: Tensor | None = None) -> Tensor:
        """Logits (B, K)."""
        return self.sharpness.exp() * F.normalize(self.standardised(features.pooled.float()), dim=1) @ self.means.T

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """Knowing nothing: the means come with the exemplars."""
        self.standardised.take(seen)

    def remember(self, seen: Tensor, labels: Tensor, index: Tensor) -> None:
        """Take the means of pooled features (M, D) of classes (M,)."""
        x = self.standardised(seen.to(self.means)).cpu()
        self.means.copy_(class_means(x, labels.cpu(), len(self.classes)))
