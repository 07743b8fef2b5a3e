"""Cascades of masks: one finds which part of the photographs an image is of, others are experts for a part each.

Warmerdam, Caron, Asano 2024, arXiv:2409.07577, section 3. There the joined features are divided by the variances of
their principal components, which is said to give these unit variance; here by the roots, which does. Parts are told
apart by pooled features as they are; the authors' code first makes them directions and takes principal components.
"""

from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.data import ImageSource
from glocal.evaluation import extract
from glocal.features import Features


class Parts(nn.Module):
    """A mixture of normal distributions with diagonal covariances: pooled features (N, D) -> (N,) their likeliest part.

    Args:
        features: (N, D), of the photographs.
        number: of parts.
        seed: of k-means, with which it begins.
    """

    mean: Tensor
    deviation: Tensor
    share: Tensor

    def __init__(self, features: Tensor, number: int = 5, seed: int = 0) -> None:
        super().__init__()
        from sklearn.mixture import GaussianMixture

        found = GaussianMixture(number, covariance_type="diag", random_state=seed, reg_covar=1e-4)
        found.fit(np.asarray(features, dtype=np.float64))
        for name, values in (("mean", found.means_), ("deviation", found.covariances_**0.5), ("share", found.weights_)):
            self.register_buffer(name, torch.from_numpy(values).float())

    def forward(self, features: Tensor) -> Tensor:
        away = (features[:, None] - self.mean) / self.deviation  # (N, parts, D)
        return (self.share.log() - self.deviation.log().sum(1) - away.square().sum(2) / 2).argmax(1)


class Cascade(nn.Module):
    """An encoder of several: features of the dispatcher and of the image's expert, joined and shrunk to one's width.

    Args:
        dispatcher: by whose pooled features images are told apart.
        experts: as many as there are parts, of the dispatcher's architecture.
        parts: fitted on the dispatcher's features.
    """

    shift: Tensor
    turn: Tensor

    def __init__(self, dispatcher: Backbone, experts: list[Backbone], parts: Parts) -> None:
        super().__init__()
        self.dispatcher, self.experts, self.parts = dispatcher, nn.ModuleList(experts), parts
        self.dim, self.cells = dispatcher.dim, dispatcher.cells
        self.name, self.image_size = f"{len(experts)} masks of {dispatcher.name}", dispatcher.image_size
        self.mean, self.std = dispatcher.mean, dispatcher.std
        self.register_buffer("shift", torch.zeros(2 * dispatcher.dim))
        self.register_buffer("turn", torch.eye(2 * dispatcher.dim))

    def fit(self, source: ImageSource) -> Self:
        """Keep the principal components of the joined features of photographs, as many as one has, of variance 1.

        Those of which so few photographs tell nothing are 0.
        """
        joined = extract(self, source, image_size=self.dispatcher.image_size).pooled.double()
        variances, directions = torch.linalg.eigh(joined.T.cov())  # the strongest last
        variances, directions = variances[-self.dim :], directions[:, -self.dim :]
        self.shift = joined.mean(0).to(self.shift)
        there = variances > 1e-6 * variances[-1]
        self.turn = torch.where(there, directions / variances.clamp_min(1e-30).sqrt(), 0).to(self.turn)
        return self

    def forward(self, x: Tensor) -> Features:
        first: Features = self.dispatcher(x)
        part = self.parts(first.pooled.float())
        pooled, tokens = torch.empty_like(first.pooled), torch.empty_like(first.tokens)
        for k in part.unique().tolist():
            at = part == k
            found: Features = self.experts[k](x[at])
            pooled[at], tokens[at] = found.pooled, found.tokens
        joined = (torch.cat(each, -1) - self.shift for each in ((first.pooled, pooled), (first.tokens, tokens)))
        pooled, tokens = (each @ self.turn for each in joined)
        return Features(pooled, tokens, first.positions, first.grid)
