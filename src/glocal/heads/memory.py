"""What methods remember of past batches: the last embeddings (NNCLR, SwAV), or the latest of every image."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.distributed import all_sum, gather
from glocal.losses import without_autocast


class Queue(nn.Module):
    """The latest `size` embeddings, the oldest overwritten first; random directions to begin with.

    On several processes each holds the embeddings of all, in the order of the joined batch.
    """

    embeddings: Tensor
    next: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", F.normalize(torch.randn(size, dim), dim=1))
        self.register_buffer("next", torch.zeros((), dtype=torch.long))

    @torch.no_grad()
    def push(self, z: Tensor) -> Tensor:
        """Take in the embeddings (B, D) of all processes; their rows."""
        size = len(self.embeddings)
        latest = gather(z.to(self.embeddings.dtype))[-size:]
        rows = (self.next + torch.arange(len(latest), device=z.device)) % size
        self.embeddings[rows] = latest
        self.next.copy_((self.next + len(latest)) % size)
        return rows


class IndexedQueue(Queue):
    """A queue that knows of which sample each embedding is, -1 being none."""

    index: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__(size, dim)
        self.register_buffer("index", torch.full((size,), -1))

    @torch.no_grad()
    def push(self, z: Tensor, index: Tensor) -> Tensor:  # type: ignore[override]
        """Take in the embeddings (B, D) of the samples `index` (B,) of all processes; their rows."""
        rows = super().push(z)
        self.index[rows] = gather(index.to(rows.device))[-len(rows) :]
        return rows


class SupportQueue(Queue):
    """A queue of directions: what it takes in is L2-normalised."""

    @torch.no_grad()
    def nearest_entry(self, z: Tensor) -> Tensor:
        """Of each vector (B, D) the queue's embedding of largest cosine similarity, (B, D) without gradient."""
        with without_autocast(z):
            similarity = z.to(self.embeddings.dtype) @ self.embeddings.mT  # z's own norm does not change the argmax
        return self.embeddings[similarity.argmax(dim=1)]

    @torch.no_grad()
    def push(self, z: Tensor) -> Tensor:
        """Take in the directions of embeddings (B, D) of all processes; their rows."""
        return super().push(F.normalize(z.to(self.embeddings.dtype), dim=1))


class Memory(nn.Module):
    """The latest embeddings of all images in each of V views, (V, N, D); N, unknown when a method is built, is 0 first.

    On several processes each holds those of all.

    Args:
        views: V.
        dim: D.
    """

    embeddings: Tensor

    def __init__(self, views: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("embeddings", torch.zeros(views, 0, dim))

    @torch.no_grad()
    def start(self, index: Tensor, z: Tensor, images: int) -> None:
        """Hold `images` from now on: those of `index` (N,) are z (N, D) in all views; each process gives its own."""
        self.make_room(images)
        given = self.embeddings.new_zeros(2, images, z.shape[1])
        index = index.to(given.device)
        given[0, index], given[1, index] = z.to(given), 1
        total, processes = all_sum(given)
        self.embeddings += total / processes.clamp_min(1)

    def make_room(self, images: int) -> None:
        """Forget all, and hold `images` from now on."""
        views, _, dim = self.embeddings.shape
        self.embeddings = self.embeddings.new_zeros(views, images, dim)

    @torch.no_grad()
    def push(self, index: Tensor, z: Tensor) -> None:
        """Take in the embeddings (V, B, D) of the images `index` (B,) of all processes."""
        rows, latest = gather(index), gather(z.transpose(0, 1).contiguous())
        self.embeddings[:, rows] = latest.transpose(0, 1).to(self.embeddings.dtype)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        if prefix + "embeddings" in state_dict:
            self.make_room(state_dict[prefix + "embeddings"].shape[1])
        super()._load_from_state_dict(state_dict, prefix, *args)
