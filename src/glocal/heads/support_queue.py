"""A queue of past embeddings in which NNCLR looks for neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.distributed import gather
from glocal.losses.loss import without_autocast


class SupportQueue(nn.Module):
    """The latest `size` embeddings, L2-normalised, the oldest overwritten first; random directions to begin with.

    On several processes each holds the embeddings of all, in the order of the joined batch.

    Args:
        size: number of embeddings kept.
        dim: their width.
    """

    embeddings: Tensor
    next: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def nearest_entry(self, z: Tensor) -> Tensor:
        """Of each vector (B, D) the queue's embedding of largest cosine similarity, (B, D) without gradient."""
        with without_autocast(z):
            similarity = z.to(self.embeddings.dtype) @ self.embeddings.mT  # z's own norm does not change the argmax
        return self.embeddings[similarity.argmax(dim=1)]

    @torch.no_grad()
    def push(self, z: Tensor) -> None:
        """Take in the embeddings (B, D) of all processes."""
        size = len(self.embeddings)
        latest = gather(F.normalize(z.to(self.embeddings.dtype), dim=1))[-size:]
        rows = (self.next + torch.arange(len(latest), device=z.device)) % size
        self.embeddings[rows] = latest
        self.next.copy_((self.next + len(latest)) % size)
