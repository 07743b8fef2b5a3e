"""Photographs as the encoder sees them, and what it does with them, ready to draw: spectra, PCA maps, neighbours."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.backbones.class_attention import class_attention
from glocal.data.source import ImageSource, Unreadable
from glocal.evaluation.extract import device_of, encode, eval_image, frozen, normalise
from glocal.evaluation.knn import nearest_neighbours
from glocal.evaluation.rank import spectrum
from glocal.evaluation.segment import looks_of, spread
from glocal.features import Features
from glocal.random import permutation

Spectrum = np.ndarray
"""(K,) singular values of centred features over the largest, in descending order."""


@dataclass(frozen=True)
class Photograph:
    """One image of the source: its largest centred square, the very pixels the encoder receives, its key and class."""

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


def embed(encoder: nn.Module, photographs: list[Photograph], *, locations: int = 8) -> tuple[Tensor, Tensor]:
    """Pooled features (N, D), and S dense ones of each photograph, evenly spread (N·S, D); S is `locations` at most."""
    pooled, tokens = [], []
    for features in features_of(encoder, [photograph.image for photograph in photographs]):
        pooled.append(features.pooled.float().cpu())
        count = features.tokens.shape[1]
        keep = torch.linspace(0, count - 1, min(locations, count), device=features.tokens.device).round().long()
        tokens.append(features.tokens[:, keep].flatten(0, 1).float().cpu())
    return torch.cat(pooled), torch.cat(tokens)


def falloff(features: Tensor) -> Spectrum:
    """Singular values of centred features (N, D) over the largest; a single 0 where the features never vary."""
    values = spectrum(features, centred=True)
    return (values[values > 0] / values[0]).numpy() if values[0] > 0 else np.zeros(1)


def neighbours_of(pooled: Tensor, queries: list[int], count: int) -> list[list[int]]:
    """Rows of `pooled` (N, D) most similar to each query row by cosine, the query itself left out, nearest first."""
    _, positions = nearest_neighbours(pooled[queries], pooled, count + 1)
    return [[i for i in row if i != query][:count] for query, row in zip(queries, positions.tolist(), strict=True)]


def pca_maps(encoder: nn.Module, photographs: list[Photograph], *, size: int) -> list[Image.Image]:
    """The first three principal components of all these photographs' dense features together, as red, green and blue.

    Each component is scaled from its 2nd to its 98th percentile over all photographs, so equal colours mean similar
    features in all of them, and is enlarged to `size` pixels, each cell shown where it looks.
    """
    found = list(features_of(encoder, [photograph.image for photograph in photographs]))
    dense = torch.cat([features.dense.cpu().double() for features in found])
    cells = found[0].positions.reshape(-1, *dense.shape[2:], 2)[0]
    right, down = (spread(size, look) for look in looks_of(cells, photographs[0].image.width))
    colours = down @ principal_colours(dense) @ right.T
    return [Image.fromarray(map_) for map_ in colours.mul(255).round().byte().permute(0, 2, 3, 1).numpy()]


def attention_maps(encoder: Backbone, photographs: list[Photograph], *, size: int) -> list[Image.Image]:
    """Photographs of `size` pixels, lit where the class token looks: by the mean over heads, the most where it is 1.

    Raises:
        UsageError: where there is no such token.
    """
    images = [photograph.image for photograph in photographs]
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    weights = class_attention(encoder, normalise(encoder, pixels.to(device_of(encoder)))).mean(1).cpu().double()
    right, down = (spread(size, look) for look in looks_of(encoder.cells(*weights.shape[1:]).cpu(), images[0].width))
    light = down @ (weights / weights.amax((1, 2), keepdim=True)) @ right.T
    shown = np.stack([np.asarray(image.resize((size, size))) for image in images])
    return [Image.fromarray(lit) for lit in (shown * (0.15 + 0.85 * light.numpy()[..., None])).round().astype(np.uint8)]


def principal_colours(dense: Tensor) -> Tensor:
    """(B, D, H, W) features to (B, 3, H, W) in [0, 1], as described at `pca_maps`. Missing components are mid-grey."""
    batch, _, height, width = dense.shape
    features = dense.permute(0, 2, 3, 1).flatten(0, 2)
    tokens = features - features.mean(0)
    variances, directions = torch.linalg.eigh(tokens.T @ tokens)  # ascending
    least = max(1e-12 * float(variances[-1]), 1e-18 * float(features.square().sum()))  # rounding
    directions = directions[:, variances > least].T.flip(0)[:3]
    colours = torch.full((len(tokens), 3), 0.5, dtype=dense.dtype)
    if len(directions):
        # A component's sign is arbitrary; fix it so that the picture is repeatable.
        directions = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
        scores = tokens @ directions.T
        low, high = (scores.quantile(q, dim=0) for q in (0.02, 0.98))
        colours[:, : len(directions)] = ((scores - low) / (high - low).clamp_min(1e-12)).clamp(0, 1)
    return colours.unflatten(0, (batch, height, width)).permute(0, 3, 1, 2)
