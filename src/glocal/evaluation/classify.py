"""Test images kept as pixels, and the linear probe on top of the encoder: what every robustness task starts from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import encode, frozen, load, normalise
from glocal.evaluation.linear import trained_probe
from glocal.evaluation.split import spread_over


def check_each(option: str, values: Sequence[Any], fits: Callable[[Any], bool], such: str) -> None:
    """Refuse no values, and one that does not fit; `such` says what each of an `option` has to be."""
    if len(values) == 0:
        raise UsageError(f"{option} is empty; give at least one, each {such}")
    for value in values:
        if not fits(value):
            raise UsageError(f"{option} holds {value!r}; each must be {such}")


class Classifier(nn.Module):
    """The encoder with the `linear` task's classifier, trained on clean features: images in [0, 1] to logits."""

    def __init__(self, context: EvalContext) -> None:
        super().__init__()
        self.encoder, (self.standardise, self.probe, _) = context.encoder, trained_probe(context)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (B, K) of images (B, 3, h, w) in [0, 1], differentiable."""
        return self.head(encode(self.encoder, normalise(self.encoder, 255 * x.permute(0, 2, 3, 1))).pooled)

    def head(self, pooled: Tensor) -> Tensor:
        """Logits (B, K) of pooled features (B, D)."""
        return self.probe.logits(self.standardise(pooled.float()))[:, 0]


class Photographs:
    """At most `most` test images, spread evenly over them, as pixels in memory, and their labels.

    Attributes:
        pixels: (N, h, w, 3) uint8, as the encoder gets them.
        labels: (N,) int64.
        index: (N,) int64, positions among the images looked at; what random numbers are keyed by.
    """

    def __init__(self, context: EvalContext, most: int) -> None:
        source = spread_over(context.test, most)
        settings = {name: getattr(context, name) for name in ("image_size", "batch_size", "workers")}
        batches = list(load(source, **settings))
        context.skipped.extend((source.key(i), reason) for _, _, bad in batches for i, reason in bad)
        readable = [pixels for _, pixels, _ in batches if pixels is not None]
        if not readable:
            raise UsageError(f"none of the {len(source)} images of {source.name} can be read ({batches[0][2][0][1]})")
        self.pixels, self.index = torch.cat(readable), torch.cat([index for index, _, _ in batches])
        self.labels = torch.as_tensor(source.labels, dtype=torch.int64)[self.index]

    def __len__(self) -> int:
        return len(self.index)

    def batches(self, context: EvalContext) -> list[tuple[Tensor, Tensor, Tensor]]:
        """(pixels, labels, index) batch by batch, the first two on the context's device."""
        whole = (self.pixels, self.labels, self.index)
        split = zip(*(each.split(context.batch_size) for each in whole), strict=True)
        return [(pixels.to(context.device), labels.to(context.device), index) for pixels, labels, index in split]


def photographs(context: EvalContext, most: int) -> Photographs:
    """The test images as pixels, read once for all tasks."""
    return context.once(("photographs", most), lambda: Photographs(context, most))


def hits(context: EvalContext, classifier: Classifier, pixels: Tensor, labels: Tensor) -> int:
    """How many of the images (B, h, w, 3) uint8 are classified right, computed as for the clean features."""
    with frozen(context.encoder):
        pooled = encode(context.encoder, normalise(context.encoder, pixels), context.precision).pooled
        return int((classifier.head(pooled).argmax(1) == labels).sum())
