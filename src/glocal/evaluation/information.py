"""What do we maximise (Shwartz-Ziv, Balestriero, LeCun 2022, arXiv:2207.10081)? Its assumption, its quantities.

A deterministic network has no entropy to speak of; around an image, x + σε with ε ~ N(0, I), it has. Where the network
is affine within σ, with Jacobian J, features are normal with covariance σ²JJᵀ, and over all images their entropy is at
most that of a normal distribution of their covariance, ½ log det(2πe·C), of which VICReg's variance and covariance
terms push the diagonal up and the rest to 0.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import eval_mode, load, normalise
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_over
from glocal.losses import covariance_penalty, variance_hinge

Encode = Callable[[Tensor], Tensor]
"""(B, 3, h, w) normalised pixels -> (B, D) features."""
LEVEL = 0.05
PASSED = 0.9
"""Share of projections that are to pass the test of normality, of which .95 would if all were normal."""


@torch.no_grad()
def around(encode: Encode, image: Tensor, noise: Tensor, sigma: Sequence[float], batch: int) -> list[Tensor]:
    """Features (S, D) of image + σ·noise for each σ, and last of all J·noise, the derivative in those directions.

    Args:
        encode: the network.
        image: (3, h, w) normalised pixels.
        noise: (S, 3, h, w).
        sigma: in units of normalised pixels.
        batch: images per forward pass.
    """
    parts = noise.split(batch)
    found = [torch.cat([encode(image + s * part) for part in parts]) for s in sigma]
    with warnings.catch_warnings(action="ignore", category=FutureWarning):  # of PyTorch, to itself
        at = [torch.func.jvp(encode, (image.repeat(len(part), 1, 1, 1),), (part,))[1] for part in parts]
    return [*found, torch.cat(at)]


def affine_error(features: Tensor, derivatives: Tensor, sigma: float) -> float:
    """How far the covariance of features (S, D) is from that of σ·derivatives (S, D) of the same noise, relative."""
    mine, affine = features.T.cov(), sigma**2 * derivatives.T.cov()
    return float((mine - affine).norm() / affine.norm())


def normal_share(features: Tensor, directions: Tensor) -> float:
    """The share of 1-D projections of features (S, D) on directions (D, P) that pass D'Agostino and Pearson's test."""
    from scipy.stats import normaltest

    projected = (features - features.mean(0)).cpu().double() @ directions.cpu().double()  # MPS has no float64
    return float((normaltest(projected.numpy()).pvalue > LEVEL).mean())


def gaussian_entropy(covariance: Tensor) -> float:
    """½ log det(2πe·C) in nats, of a covariance (D, D); −inf where it is singular."""
    sign, logarithm = torch.linalg.slogdet(covariance.double())
    return 0.5 * (len(covariance) * math.log(2 * math.pi * math.e) + float(logarithm)) if sign > 0 else -math.inf


def reading(features: Tensor) -> dict[str, float]:
    """Of features (N, D): the bound on their entropy and its diagonal's, in nats a dimension; VICReg's terms.

    Where fewer images than dimensions, or one that never varies, make the covariance singular, only the latter.
    """
    z = features.double()
    covariance, dim = z.T.cov(), z.shape[1]
    own = 0.5 * (2 * math.pi * math.e * covariance.diagonal()).log().mean()
    bound = gaussian_entropy(covariance) / dim
    terms = {"variance_term": float(variance_hinge(z)), "covariance_term": float(covariance_penalty(z))}
    found = {"entropy": bound, "diagonal": float(own), "shared": float(own) - bound, **terms}
    return {name: value for name, value in found.items() if math.isfinite(value)}


_READ = {
    "entropy": "bound on the entropy a dimension, nats",
    "diagonal": "the same if dimensions were independent",
    "shared": "what dimensions share, nats each",
    "variance_term": "VICReg's variance term",
    "covariance_term": "VICReg's covariance term",
}


@task(
    on_request=True,
    title="Information",
    words={
        "normal": "projections that are normal under noise of σ",
        "error": "error of the affine approximation under noise of σ",
        "limit": f"largest σ at which {PASSED:.0%} are normal",
        **_READ,
        **{f"{name}_cells": f"{words}, of cells" for name, words in _READ.items()},
    },
    shares={"normal": "projections"},
)
def information(
    context: EvalContext,
    *,
    images: int = 16,
    draws: int = 256,
    projections: int = 64,
    sigma: Sequence[float] = (1e-3, 1e-2, 1e-1, 1.0),
) -> dict:
    """Whether pooled features are normal around an image, as information theory of VICReg assumes, and its quantities.

    It is about an encoder: of a projector, which is not handed over, it says nothing. Each test image is seen under
    `draws` of normal noise of each σ (of normalised pixels).

    Returns:
        By σ: normal, the share of (image, random projection) pairs that pass D'Agostino and Pearson's test at 5%
        (of normal ones 95% do), and error, that of the covariance σ²JJᵀ, relative, the mean over images. limit, the
        largest σ up to which 90% pass. Of pooled features of all test images, and of cells of some: `reading`.
    """
    encoder: Any = context.encoder
    encode: Encode = lambda x: encoder(x).pooled
    source = spread_over(context.test, images)
    settings: dict[str, Any] = {"image_size": context.image_size, "batch_size": 1, "workers": 0}
    normal, error = [], []
    for index, pixels, _ in load(source, **settings):
        if pixels is None:
            continue
        image, key = normalise(encoder, pixels.to(context.device))[0], (context.seed, int(index))
        noise = _drawn((draws, *image.shape), "noise", *key).to(context.device)
        with eval_mode(encoder):
            *found, derivatives = around(encode, image, noise, sigma, context.batch_size)
        directions = F.normalize(_drawn((found[0].shape[1], projections), "directions", *key), dim=0).to(found[0])
        normal.append([normal_share(z, directions) for z in found])
        error.append([affine_error(z, derivatives, s) for z, s in zip(found, sigma, strict=True)])
        if context.progress is not None:
            context.progress("noise around each image", len(normal), len(source))
    passed, wrong = np.mean(normal, 0), np.mean(error, 0)
    up_to = np.cumprod(passed >= PASSED).sum()
    cells = context.extract(source, dense=True).dense
    assert cells is not None
    return {
        "limit": float(sigma[up_to - 1]) if up_to else 0.0,
        "normal": {f"{s:g}": float(share) for s, share in zip(sigma, passed, strict=True)},
        "error": {f"{s:g}": float(each) for s, each in zip(sigma, wrong, strict=True)},
        **reading(context.bank("test").pooled),
        **{f"{name}_cells": x for name, x in reading(cells.permute(0, 2, 3, 1).flatten(0, 2)).items()},
        "images": len(normal),
    }


def _drawn(shape: tuple[int, ...], what: str, seed: int, image: int) -> Tensor:
    """Normal numbers that follow from the seed and the image."""
    generator = torch.Generator().manual_seed(random.derive(seed, f"information {what}", image))
    return torch.randn(shape, generator=generator)
