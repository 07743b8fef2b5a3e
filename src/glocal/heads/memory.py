"""A memory of the latest embedding of every image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from glocal.distributed import all_sum, gather


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
        given[0, index], given[1, index] = z.to(given.dtype), 1
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
