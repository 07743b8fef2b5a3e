"""Flows from noise to images along straight lines: x_t = (1 − t)·x₀ + t·ε, whose mean velocity a U-Net learns.

Lipman et al. 2023 (arXiv:2210.02747), Liu et al. 2023 (arXiv:2209.03003). What guides it is a number for each image:
its cluster, or its class.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from glocal.backbones.backbone import Backbone
from glocal.backbones.build import build_backbone
from glocal.errors import UsageError

Solver = Literal["euler", "heun"]
STEPS = 16
"""Of the sampler, unless others are asked for."""


class VelocityField(nn.Module):
    """v(x_t, t, c) of noisy images, for c one of K clusters, or none.

    Args:
        backbone: of a network with `velocity` and `embedding`, as `UNet` has them.
        clusters: K; 0: nothing guides it.

    Raises:
        UsageError: for another backbone.
    """

    def __init__(self, backbone: Backbone, clusters: int) -> None:
        super().__init__()
        if not hasattr(backbone.model, "velocity"):
            raise UsageError(f"{backbone.name} gives no velocity: take --backbone unet_tiny or unet_small")
        self.backbone = backbone
        self.clusters = nn.Embedding(clusters, backbone.model.embedding) if clusters else None

    def forward(self, x: Tensor, time: Tensor, cluster: Tensor | None = None) -> Tensor:
        """Velocities (B, 3, h, w) of normalised noisy images at times (B,); clusters (B,) int64, −1 for none."""
        condition = None
        if cluster is not None and self.clusters is not None:
            condition = self.clusters(cluster.clamp_min(0)) * (cluster >= 0)[:, None]
        return self.backbone.model.velocity(x, time, condition)

    def guided(self, x: Tensor, time: Tensor, cluster: Tensor | None, guidance: float) -> Tensor:
        """(1 + w)·v(c) − w·v(none), "classifier-free guidance" (Ho and Salimans 2022) of strength w."""
        field = self(x, time, cluster)
        return field if guidance == 0 or cluster is None else field + guidance * (field - self(x, time))


def integrate(
    field: Callable[[Tensor, Tensor], Tensor], noise: Tensor, steps: int = STEPS, solver: Solver = "euler"
) -> Tensor:
    """Follow a velocity from noise (B, ...) at t = 1 to t = 0 in equal steps.

    Args:
        field: (x (B, ...), t (B,)) -> dx/dt (B, ...).
        noise: where to begin.
        steps: number of them.
        solver: "euler", or "heun", which looks twice at each step but the last.
    """
    if steps < 1 or solver not in ("euler", "heun"):
        raise UsageError(f"steps {steps}, solver {solver}: give at least 1 step, and euler or heun")
    x, times = noise, torch.linspace(1, 0, steps + 1, dtype=torch.float64).tolist()
    at = lambda time: x.new_full((len(x),), time)
    for now, then in pairwise(times):
        velocity = field(x, at(now))
        if solver == "heun" and then > 0:
            velocity = (velocity + field(x + (then - now) * velocity, at(then))) / 2
        x = x + (then - now) * velocity
    return x


class FlowSampler(nn.Module):
    """A velocity field as a generator: the latent is the noise that the flow begins with.

    Args:
        backbone: arguments of `build_backbone`.
        clusters: K.
        image_size: side of the images, pixels.

    Attributes:
        latent_shape: (3, image_size, image_size).
        frequencies: (K,), how many images of each cluster training saw.
        steps, solver, guidance: of the sampler; may be set.
    """

    frequencies: Tensor

    def __init__(self, backbone: dict[str, Any], clusters: int, image_size: int) -> None:
        super().__init__()
        self.field = VelocityField(build_backbone(**backbone), clusters)
        self.register_buffer("frequencies", torch.zeros(clusters))
        self.config = {"name": "flow", "backbone": backbone, "clusters": clusters, "image_size": image_size}
        self.latent_shape = (3, image_size, image_size)
        self.steps, self.guidance = STEPS, 0.0
        self.solver: Solver = "euler"

    @classmethod
    def of(cls, field: VelocityField, counts: Tensor, image_size: int) -> Self:
        """A copy of a field that is trained, and how many images of each cluster (K,) it has seen."""
        with torch.random.fork_rng(devices=[]):
            sampler = cls(field.backbone.config | {"pretrained": False}, len(counts), image_size)
        sampler.field.load_state_dict(field.state_dict())
        sampler.frequencies.copy_(counts)
        return sampler.eval()

    def forward(self, z: Tensor, cluster: Tensor | None = None) -> Tensor:
        """Images in [0, 1] of noise (B, 3, h, w), of these clusters (B,) int64, −1 for none; None: of none."""
        field = lambda x, time: self.field.guided(x, time, cluster, self.guidance)
        x, backbone = integrate(field, z, self.steps, self.solver), self.field.backbone
        mean, std = (torch.tensor(value, device=x.device)[:, None, None] for value in (backbone.mean, backbone.std))
        return x * std + mean
