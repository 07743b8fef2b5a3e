"""What architectures promise about cost: XCiT's in the number of tokens, FlexiViT's beside fixed patches and of itself.

Products on one thread or many, as PyTorch is told; nothing is read from disk.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import timm
import torch
from timm.models.vision_transformer import Attention
from timm.models.xcit import XCA
from torch import nn

from benchmarks.measure import DEVICE, Size, interleaved, ratio, summary
from glocal.backbones import build_backbone

TOKENS = {"full": (1024, 4096), "smoke": (16, 64)}
WIDTH, HEADS = 128, 4
PATCHES = {"full": (8, 12, 16, 24, 32, 48), "smoke": (8, 16)}
"""Of FlexiViT, on images of `SIDE` pixels."""
SIDE = {"full": 192, "smoke": 32}
STEPS = {"full": (8, 16, 32), "smoke": (8, 16)}
BATCH = {"full": 8, "smoke": 2}


def measure(size: Size) -> dict[str, Any]:
    """Each promise, its arms in turn."""
    rounds = 5 if size == "full" else 1
    return {"tokens": growth(size, rounds), "steps": steps(size, rounds), "curve": curve(size, rounds)}


def growth(size: Size, rounds: int) -> dict[str, Any]:
    """Seconds of one layer, forward, of cross-covariance attention and of attention, and by what four times as many
    tokens multiply them."""
    few, many = TOKENS[size]
    layers: dict[str, nn.Module] = {"xca": XCA(WIDTH, HEADS), "attention": Attention(WIDTH, HEADS)}
    arms = {}
    for name, layer in layers.items():
        layer = layer.to(DEVICE).eval()
        for count in (few, many):
            x = torch.randn(1, count, WIDTH, device=DEVICE)
            arms[f"{name} {count}"] = partial(without_gradient, partial(layer, x))
    times = interleaved(arms, rounds=rounds, least=0.2)
    return {
        "few": few,
        "many": many,
        "width": WIDTH,
        "seconds": {name: summary(values) for name, values in times.items()},
        "times_more": {name: ratio(times[f"{name} {many}"], times[f"{name} {few}"]) for name in layers},
    }


def steps(size: Size, rounds: int) -> list[dict[str, Any]]:
    """Seconds of a training step, forward, backward and AdamW, of FlexiViT at a patch, resizing included, and of the
    ordinary vision transformer of that patch."""
    found = []
    for patch in STEPS[size]:
        flexible = build_backbone("flexivit_tiny", image_size=SIDE[size], patch=patch).model
        name, arguments, _ = flexible.plain(SIDE[size])
        fixed = timm.create_model(name, num_classes=0, img_size=SIDE[size], **arguments)
        arms = {"flexible": training_step(flexible, size), "fixed": training_step(fixed, size)}
        times = interleaved(arms, rounds=rounds)
        seconds = {name: summary(values) for name, values in times.items()}
        times_fixed = ratio(times["flexible"], times["fixed"])
        found.append({"patch": patch, "batch": BATCH[size], "seconds": seconds, "times_fixed": times_fixed})
    return found


def training_step(model: Any, size: Size) -> Callable[[], None]:
    """One step of a timm model on random pixels."""
    model = model.to(DEVICE).train()
    pixels = torch.randn(BATCH[size], 3, SIDE[size], SIDE[size], device=DEVICE)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-4)

    def step() -> None:
        optimizer.zero_grad()
        model.forward_features(pixels).square().mean().backward()
        optimizer.step()

    return step


def curve(size: Size, rounds: int) -> dict[str, Any]:
    """Images a second, forward, of one set of weights at each patch."""
    encoder = build_backbone("flexivit_tiny", image_size=SIDE[size]).to(DEVICE).eval()
    pixels = torch.randn(BATCH[size], 3, SIDE[size], SIDE[size], device=DEVICE)
    arms = {str(patch): partial(without_gradient, partial(encoder.at(patch), pixels)) for patch in PATCHES[size]}
    times = interleaved(arms, rounds=rounds)
    first = str(PATCHES[size][0])
    return {
        "image_size": SIDE[size],
        "images_per_second": {name: BATCH[size] / summary(values)["median"] for name, values in times.items()},
        "times_finest": {name: ratio(times[first], values) for name, values in times.items()},
    }


def without_gradient(work: Callable[[], Any]) -> None:
    """A call as in inference."""
    with torch.inference_mode():
        work()
