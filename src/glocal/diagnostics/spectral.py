"""The spectral oracle: what objectives reach at best, in closed form, where it is known which images are views of one.

Joint-embedding objectives are spectral embeddings of the graph of positive pairs (Balestriero & LeCun 2022,
arXiv:2205.11508; HaoChen et al. 2021, arXiv:2106.04156). Scaled to rows that sum to 1, a graph has the eigenvalues
1 = ρ_0 ≥ ρ_1 ≥ ..., and they answer for all: VICReg takes the smallest eigenvalues 1 − ρ of the Laplacian (Laplacian
eigenmaps), the squared contrastive objective factorises the graph, Barlow Twins finds canonical correlations, the ρ.

An embedding is free, a row of numbers for each image, or linear, Z = XW for given inputs X. An objective is that of the
batch that lists each pair (i, j) as often as the graph counts it. Functions take the graph (N, N) of `graph_spectrum`,
K (`dim`) and, of a linear encoder, its `inputs` (N, D). What they speak about:

| function | objective | under which condition |
|---|---|---|
| `vicreg_optimum` | `vicreg_loss` itself | dimensions are uncorrelated: a covariance weight → ∞, or large enough |
| `squared_vicreg_optimum` | VICReg with a square in place of its hinge | none |
| `squared_contrast_optimum` | a square in place of log Σ exp, nothing normalised | none |
| `info_nce_optimum`, `dcl_optimum` | `info_nce`, `dcl` themselves | each image is paired with itself only; K ≥ N − 1 |
| `barlow_twins_optimum` | `barlow_twins_loss` itself | ρ_K ≥ 2/3; a redundancy weight → ∞, or any where ρ_K = 1 |

For InfoNCE on other graphs no closed form is known. Everything is in float64.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from glocal.errors import UsageError


@dataclass(frozen=True)
class Optimum:
    """What an objective reaches at best, and where: at (N, K) float64, dimensions permuted or mirrored as one likes."""

    embedding: Tensor
    loss: float


def graph_spectrum(graph: Tensor, inputs: Tensor | None = None, *, centred: bool) -> tuple[Tensor, Tensor]:
    """Eigenvalues ρ (P,), largest first, and orthonormal eigenvectors (N, P) of a graph of positive pairs.

    Args:
        graph: (N, N) symmetric and non-negative, with equal row sums; entry (i, j) counts how often i and j are paired.
        inputs: (N, D) of a linear encoder, to stay within what it can express; None for a free embedding.
        centred: leave out the constant embedding, as objectives that centre do.
    """
    graph = graph.double()
    degrees = graph.sum(dim=1)
    if not (torch.allclose(graph, graph.mT) and torch.allclose(degrees, degrees[0]) and degrees[0] > 0):
        raise UsageError("the closed forms need a symmetric graph whose rows have equal positive sums")
    basis = torch.eye(len(graph), dtype=torch.float64) if inputs is None else inputs.double()
    if centred:
        basis = basis - basis.mean(dim=0)
    left, singular, _ = torch.linalg.svd(basis, full_matrices=False)
    basis = left[:, singular > 1e-10 * singular[0]]
    values, vectors = torch.linalg.eigh(basis.mT @ (graph / degrees[0]) @ basis)
    return values.flip(0), basis @ vectors.flip(1)


def _largest(graph: Tensor, dim: int, inputs: Tensor | None, *, centred: bool) -> tuple[Tensor, Tensor]:
    """The K largest eigenvalues and their eigenvectors."""
    values, vectors = graph_spectrum(graph, inputs, centred=centred)
    if dim > len(values):
        raise UsageError(f"{dim} dimensions are asked for, and this graph and encoder allow no more than {len(values)}")
    return values[:dim], vectors[:, :dim]


def vicreg_optimum(
    graph: Tensor, dim: int, *, invariance_weight: float = 25, variance_weight: float = 25, inputs: Tensor | None = None
) -> Optimum:
    """The optimum of `glocal.losses.vicreg_loss` among embeddings with uncorrelated dimensions.

    Each dimension takes one eigenvector, on which a unit of variance costs 2λ(1 − ρ) of invariance. It grows until the
    hinge pays less, at √(var + ε) = μ / 4λ(1 − ρ), or is satisfied, at 1.

    The weights are λ and μ. The graph's counts are whole numbers.
    """
    rho, vectors = _largest(graph, dim, inputs, centred=True)
    pairs, eps = float(graph.sum()), 1e-4
    unbiased = pairs / (pairs - 1)  # the loss's variances, over those of the N images
    cost = 2 * invariance_weight * (1 - rho).clamp_min(1e-15) / unbiased
    variance = ((variance_weight / (2 * cost)).square() - eps).clamp(0, 1 - eps)
    hinge = variance_weight * (1 - (variance + eps).sqrt())
    embedding = vectors * (len(graph) * variance / unbiased).sqrt()
    return Optimum(embedding, float((cost * variance + hinge).mean()))


def squared_vicreg_optimum(
    graph: Tensor, dim: int, *, variance_weight: float, invariance_weight: float, inputs: Tensor | None = None
) -> Optimum:
    """The optimum of β·‖Cov(Z) − I‖² + γ·tr ZᵀLZ / N, with L the Laplacian: VICReg's hinge replaced by a square.

    γ·tr ZᵀLZ / N = γ/2 · the mean squared distance of pairs, summed over dimensions; Cov divides by N. Z* has the
    eigenvectors as columns, each of variance (1 − γ(1 − ρ)/2β)₊. β and γ weigh variance and invariance.
    """
    rho, vectors = _largest(graph, dim, inputs, centred=True)
    variance = (1 - invariance_weight * (1 - rho) / (2 * variance_weight)).clamp_min(0)
    loss = variance_weight * (variance - 1).square() + invariance_weight * (1 - rho) * variance
    return Optimum(vectors * (len(graph) * variance).sqrt(), float(loss.sum()))


def squared_contrast_optimum(graph: Tensor, dim: int, *, inputs: Tensor | None = None) -> Optimum:
    """The optimum of E[(z·z')²] − 2·E[z·z⁺], z' any image and z⁺ a positive: the spectral contrastive objective.

    Up to a constant it is ‖A − ZZᵀ/N‖², A the graph with rows that sum to 1: Z*Z*ᵀ/N is A's best positive approximation
    of rank K, and what it misses is the energy of A's other eigenvalues (Eckart & Young 1936).
    """
    rho, vectors = _largest(graph, dim, inputs, centred=False)
    rho = rho.clamp_min(0)
    return Optimum(vectors * (len(graph) * rho).sqrt(), -float(rho.square().sum()))


def info_nce_optimum(images: int, temperature: float) -> Optimum:
    """The optimum of `glocal.losses.info_nce` over N images: both views of each at one corner of a regular simplex.

    Positives then have similarity 1 and negatives −1/(N − 1), the least that N vectors can all have (Lu & Steinerberger
    2022, arXiv:2012.08465). It takes at least N − 1 dimensions; the embedding has N.
    """
    margin = images / (images - 1) / temperature
    return Optimum(_simplex(images), math.log1p((2 * images - 2) * math.exp(-margin)))


def dcl_optimum(images: int, temperature: float) -> Optimum:
    """The optimum of `glocal.losses.dcl`, without weights; see `info_nce_optimum`."""
    margin = images / (images - 1) / temperature
    return Optimum(_simplex(images), math.log(2 * images - 2) - margin)


def _simplex(corners: int) -> Tensor:
    return torch.nn.functional.normalize(torch.eye(corners, dtype=torch.float64) - 1 / corners, dim=1)


def barlow_twins_optimum(graph: Tensor, dim: int, *, inputs: Tensor | None = None) -> Optimum:
    """The optimum of `glocal.losses.barlow_twins_loss` among embeddings without redundancy: K·(1 − h)².

    It spans the K first canonical variates of the two views (CCA), whose correlations are the ρ. It is not those
    variates themselves, unless all ρ are 1: the objective rewards equal correlations, and mixed such that no redundancy
    comes up, all dimensions can have the harmonic mean h of the ρ. Proof: dimensions without redundancy have
    correlations 1/x_k with x the diagonal of QᵀR⁻¹Q, R = diag(ρ), for some orthonormal Q; (1 − 1/x)² is convex and
    increasing for 1 ≤ x ≤ 3/2; hence, by Schur and Horn, x constant is best. A `UsageError` where ρ_K < 2/3.
    """
    rho, vectors = _largest(graph, dim, inputs, centred=True)
    if rho[-1] < 2 / 3 - 1e-12:
        raise UsageError(f"the closed form needs correlations of at least 2/3, and the last is {float(rho[-1]):.3f}")
    harmonic = 1 / (1 / rho).mean()
    mixed = vectors / rho.sqrt() @ _equalise(1 / rho) * (len(graph) * harmonic).sqrt()
    return Optimum(mixed, float(dim * (1 - harmonic) ** 2))


def _equalise(diagonal: Tensor) -> Tensor:
    """An orthogonal Q (K, K) such that Qᵀ·diag(d)·Q has equal entries on its diagonal: K − 1 rotations."""
    matrix, mean = torch.diag(diagonal), diagonal.mean()
    rotations = torch.eye(len(diagonal), dtype=diagonal.dtype)
    for _ in range(len(diagonal) - 1):
        entries = matrix.diagonal()
        low, high = int(entries.argmin()), int(entries.argmax())
        # low·cos² + high·sin² + 2·off·sin·cos = mean, a quadratic equation for the tangent
        a, b, c = entries[high] - mean, matrix[low, high], entries[low] - mean
        if a < 1e-14:
            break
        angle = torch.atan((-b + (b * b - a * c).sqrt()) / a)
        turn = torch.eye(len(diagonal), dtype=diagonal.dtype)
        turn[low, low] = turn[high, high] = angle.cos()
        turn[high, low], turn[low, high] = angle.sin(), -angle.sin()
        matrix, rotations = turn.mT @ matrix @ turn, rotations @ turn
    return rotations
