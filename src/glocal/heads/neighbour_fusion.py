"""A feature that has looked at its nearest neighbours, and a classifier that does so in a memory of exemplars."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.heads.cross_attention import CrossAttentionBlock

SCALE = 16.0
"""Of cosines as logits, before training."""
FUSION_RATE = 1e-2
"""Share of the rate of what else learns with which a classifier's fusion does, on its first classes. Then it stays:
learnt again on new classes and a few exemplars of the old ones, it forgets these."""


class NeighbourFusion(nn.Module):
    """Fuses vectors with their neighbours by a transformer (Iscen et al. 2022, arXiv 2210.04485).

    The tokens are the query and the neighbours, with what is known of these added; the order of the neighbours does not
    matter. Before training the query comes out as it goes in. Without layers it is the mean of the neighbours' tokens:
    of one neighbour, that one; of none, the query.

    Args:
        dim: D.
        layers: of the transformer; of the last one only the query's token is computed.
    """

    def __init__(self, dim: int, layers: int = 1) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(CrossAttentionBlock(dim, math.gcd(dim, 8)) for _ in range(layers))
        for name, parameter in self.blocks.named_parameters():
            if ".out." in name or ".mlp.2." in name:
                nn.init.zeros_(parameter)

    def forward(self, query: Tensor, neighbours: Tensor, labels: Tensor | None = None) -> Tensor:
        """The queries, fused (B, D).

        Args:
            query: (B, D).
            neighbours: (B, k, D).
            labels: (B, k, D), what is known of each neighbour, embedded.
        """
        about = neighbours if labels is None else neighbours + labels
        if not len(self.blocks):
            return about.mean(1) if about.shape[1] else query
        tokens = torch.cat([query[:, None], about], 1)
        for block in self.blocks[:-1]:
            tokens = block(tokens, tokens)
        return self.blocks[-1](tokens[:, :1], tokens)[:, 0]


class NeighbourClassifier(nn.Module):
    """Logits are cosines with a vector for each class, of a feature or, with neighbours, of it fused with exemplars.

    Args:
        dim: D.
        classes: K.
        neighbours: exemplars that it looks at, at most; 0: none, a cosine classifier.
        layers: of `NeighbourFusion`.
    """

    memory: Tensor
    labels: Tensor
    index: Tensor

    def __init__(self, dim: int, classes: int, *, neighbours: int = 10, layers: int = 1) -> None:
        super().__init__()
        self.neighbours = neighbours
        self.weight, self.scale = nn.Parameter(torch.zeros(classes, dim)), nn.Parameter(torch.tensor(math.log(SCALE)))
        self.fusion = NeighbourFusion(dim, layers) if neighbours else None
        self.about = nn.Embedding(classes, dim) if neighbours else None
        if self.about is not None:
            nn.init.zeros_(self.about.weight)
        self.register_buffer("memory", torch.zeros(0, dim))
        self.register_buffer("labels", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("index", torch.zeros(0, dtype=torch.int64))

    def forward(self, x: Tensor, index: Tensor | None = None) -> Tensor:
        """Logits (B, K) of features x (B, D).

        Args:
            x: features.
            index: (B, n), samples that the features are of: exemplars of these numbers are not looked at.
        """
        x = F.normalize(x, dim=1)
        if self.fusion is not None and len(self.memory):
            assert self.about is not None
            similarity = x.detach() @ self.memory.T
            if index is not None:
                own = (self.index == index[..., None]).any(1)
                similarity = similarity.masked_fill(own, -2.0)
            most = len(self.memory) - (0 if index is None else index.shape[1])
            near = similarity.topk(max(0, min(self.neighbours, most)), dim=1).indices
            x = F.normalize(self.fusion(x, self.memory[near], self.about(self.labels[near])), dim=1)
        return self.scale.exp() * x @ F.normalize(self.weight, dim=1).T

    @torch.no_grad()
    def begin(self, x: Tensor, y: Tensor) -> None:
        """Take the vector of each class that occurs from the mean of its features x (N, D), of classes y (N,)."""
        for k in y.unique():
            self.weight[k] = F.normalize(F.normalize(x[y == k], dim=1).mean(0), dim=0)
            if self.about is not None:
                self.about.weight[k] = self.weight[k]

    @torch.no_grad()
    def go_on_from(self, past: "NeighbourClassifier") -> None:
        """Take what a classifier of the first of these classes has learnt, but not what it remembers."""
        mine = self.state_dict()
        for name, learnt in past.state_dict().items():
            if name not in ("memory", "labels", "index"):
                (mine[name][: len(learnt)] if learnt.ndim else mine[name]).copy_(learnt)

    @torch.no_grad()
    def remember(self, x: Tensor, y: Tensor, index: Tensor) -> None:
        """Hold exemplars, features x (M, D) of classes y (M,), of the samples `index` (M,), from now on."""
        device = self.memory.device
        self.memory, self.labels, self.index = F.normalize(x, dim=1).to(device), y.to(device), index.to(device)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        for name in ("memory", "labels", "index"):  # of as many as were held
            if (given := state_dict.get(prefix + name)) is not None:
                setattr(self, name, torch.zeros_like(given, device=self.memory.device))
        super()._load_from_state_dict(state_dict, prefix, *args)
