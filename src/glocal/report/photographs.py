"""Photographs of a source as the encoder sees them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import nn

from glocal.data.source import ImageSource, Unreadable
from glocal.evaluation.extract import device_of, encode, eval_image, frozen, normalise
from glocal.features import Features
from glocal.random import permutation


@dataclass(frozen=True)
class Photograph:
    """One image of the source.

    Attributes:
        image: RGB, `size`×`size`, its largest centred square: the very pixels the encoder receives.
        key: what the source calls it.
        label: position in the source's classes, or None.
    """

    image: Image.Image
    key: str
    label: int | None


def choose(source: ImageSource, count: int) -> list[int]:
    """`count` sample ids (or as many as there are), always the same ones, taking turns between the classes."""
    order = permutation(len(source), 0, "report")
    if source.labels is not None:
        labels = np.asarray(source.labels)[order]
        turn = np.zeros(len(order), dtype=np.int64)  # how many of the same class come before each one
        for label in np.unique(labels):
            turn[labels == label] = np.arange(np.count_nonzero(labels == label))
        order = order[np.argsort(turn, kind="stable")]
    return [int(i) for i in order[:count]]


def load(source: ImageSource, indices: Iterable[int], size: int) -> list[Photograph]:
    """The photographs that can be read, as centred squares of `size` pixels."""
    found = []
    for i in indices:
        try:
            opened = source.open(i)
            image = Image.fromarray(opened.decode(min(1.0, size / min(opened.size))))
        except Unreadable:
            continue
        label = None if source.labels is None else int(source.labels[i])
        found.append(Photograph(eval_image(image, size, crop_pct=1.0), source.key(i), label))
    return found


def features_of(encoder: nn.Module, images: list[Image.Image], *, batch_size: int = 32) -> Iterator[Features]:
    """Features of images of one size, frozen, one `Features` per batch."""
    device = device_of(encoder)
    for start in range(0, len(images), batch_size):
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images[start : start + batch_size]]))
        with frozen(encoder):
            features = encode(encoder, normalise(encoder, pixels.to(device)))
        yield features
