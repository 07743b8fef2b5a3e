"""Images that are made: a step of a flow beside its bare network's, and their distances beside seeing them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.measure import DEVICE, Size, interleaved, ratio, summary
from glocal.backbones import build_backbone
from glocal.data import ArraySource
from glocal.evaluation.distances import frechet_distance, kernel_distance, precision_recall
from glocal.evaluation.extract import extract
from glocal.methods import Flow
from glocal.training.optimizers import build_optimizer
from glocal.views import Batch, View

CLUSTERS = 50


def measure(size: Size) -> dict[str, Any]:
    """Seconds of a training step, and of features and what is made of them, in turn."""
    if size == "full":
        return {"step": measure_step("unet_small", 32, 64, 7), "distances": measure_distances("resnet18", 64, 5000, 3)}
    return {"step": measure_step("unet_tiny", 16, 4, 1), "distances": measure_distances("test_resnet", 32, 40, 1)}


def measure_step(backbone: str, side: int, batch: int, rounds: int) -> dict[str, Any]:
    """Guided by clusters, with the moving average; beside a step of the U-Net alone, towards noise."""
    arms = {"flow": flow(backbone, side, batch), "network": network(backbone, side, batch)}
    times = interleaved({name: partial(next, each) for name, each in arms.items()}, rounds=rounds)
    return {
        "backbone": backbone,
        "image_size": side,
        "batch": batch,
        "seconds": {name: summary(found) for name, found in times.items()},
        "times_network": ratio(times["flow"], times["network"]),
    }


def flow(backbone: str, side: int, batch: int) -> Iterator[None]:
    method = Flow(build_backbone(backbone, image_size=side), image_size=side, guide="labels", clusters=CLUSTERS)
    method.to(device=DEVICE, memory_format=torch.channels_last).train()
    views = [View(drawn(batch, side), torch.empty(0))]
    data = Batch(views, torch.arange(batch), label=torch.randint(CLUSTERS, (batch,), device=DEVICE))

    def forward() -> torch.Tensor:
        return method(data).total

    for _ in steps(method, method, forward):
        method.after_step(0.5)
        yield


def network(backbone: str, side: int, batch: int) -> Iterator[None]:
    method = Flow(build_backbone(backbone, image_size=side), image_size=side)  # for its optimiser
    method.to(device=DEVICE, memory_format=torch.channels_last).train()
    x, noise = drawn(batch, side), drawn(batch, side)
    time = torch.rand(batch, device=DEVICE)
    bare = method.field.backbone.model

    def forward() -> torch.Tensor:
        return (bare.velocity(x, time, None) - noise).square().mean()

    yield from steps(method, bare, forward)


def steps(method: Flow, trained: nn.Module, forward: Callable[[], torch.Tensor]) -> Iterator[None]:
    """Endless steps: forward, backward, optimiser."""
    optimizer = build_optimizer(method, method.optimization, 1e-4)
    while True:
        forward().backward()
        optimizer.step()
        trained.zero_grad()
        yield


def drawn(batch: int, side: int) -> torch.Tensor:
    return torch.randn(batch, 3, side, side, device=DEVICE).to(memory_format=torch.channels_last)


def measure_distances(backbone: str, side: int, images: int, rounds: int) -> dict[str, Any]:
    """Features of as many real as made images; the same and Fréchet's distance; and all four scores."""
    encoder = build_backbone(backbone, image_size=side).to(DEVICE).eval()
    draw = np.random.default_rng(0)
    sources = [ArraySource(draw.integers(0, 256, (images, side, side, 3), np.uint8)) for _ in range(2)]

    def see() -> list[torch.Tensor]:
        return [extract(encoder, source, image_size=side, batch_size=64, precision="fp32").pooled for source in sources]

    def frechet() -> None:
        frechet_distance(*see())

    def scores() -> None:
        real, made = see()
        frechet_distance(real, made)
        kernel_distance(real, made)
        precision_recall(real, made)

    times = interleaved({"features": see, "with FID": frechet, "with all scores": scores}, rounds=rounds)
    return {
        "backbone": backbone,
        "image_size": side,
        "images": images,
        "seconds": {name: summary(found) for name, found in times.items()},
        "times_features": {name: ratio(times[name], times["features"]) for name in ("with FID", "with all scores")},
    }
