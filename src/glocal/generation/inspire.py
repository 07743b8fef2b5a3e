"""Pictures inspired by another: what a generator makes that an encoder sees alike (Rozière et al. 2019, 1906.11661)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from glocal.generation.likeness import Likeness
from glocal.training import TrainingStopped

REALISM = 0.03
"""Weight of how real an image looks to the discriminator, where a generator has one."""


class Inspiration:
    """What latents cost: Σ_φ dist(φ(G(z)), φ(x)) + ((mean z²) − 1)² − .03·D(G(z)).

    The second term keeps latents where a standard normal distribution has them.

    Args:
        generator: see `glocal.generation.Generator`.
        likenesses: to the picture, of one encoder each.
        realism: images (B, 3, h, w) in [0, 1] -> how real each looks (B,), of generators that learnt against one.
    """

    def __init__(
        self, generator: Any, likenesses: Sequence[Likeness], realism: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.generator, self.likenesses, self.realism = generator, likenesses, realism

    def __call__(self, z: Tensor) -> Tensor:
        """(B,), of latents (B, *latent_shape); differentiable."""
        images = pictures(self.generator, z)
        cost = self.distance(images) + (z.square().flatten(1).mean(1) - 1).square()
        return cost if self.realism is None else cost - REALISM * self.realism(images)

    def distance(self, images: Tensor) -> Tensor:
        """(B,), the first term alone."""
        return torch.stack([like(images) for like in self.likenesses]).sum(0)


def pictures(generator: Any, z: Tensor) -> Tensor:
    """Images (B, 3, h, w) of latents; `TrainingStopped` where they are no numbers."""
    images = generator(z)
    if not images.isfinite().all():
        size = float(z.detach().square().mean().sqrt())
        raise TrainingStopped(
            f"the generator gives images that are not finite, of latents of size {size:.2g} (1 is usual):"
            " its training diverged; train it again with a lower --lr"
        )
    return images
