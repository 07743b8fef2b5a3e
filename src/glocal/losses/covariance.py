"""Invariance, variance and covariance: VICReg (Bardes, Ponce, LeCun 2022a) and the global half of VICRegL (2022b).

`invariance`, `variance_hinge` and `covariance_penalty` work on the samples they are given. The `*_loss` functions first
join the batch over processes: their statistics, values and gradients are those of the joined batch. Everything is
computed in float32, or float64 where the inputs are, whatever the autocast.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from glocal.distributed import gather
from glocal.errors import UsageError
from glocal.losses.loss import Loss


def upcast(x: Tensor) -> Tensor:
    """`x` in at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which products on the device of `x` keep the precision of their operands."""
    return torch.autocast(x.device.type, enabled=False)


def _gram(x: Tensor) -> Tensor:
    with without_autocast(x):
        return x @ x.mT if x.shape[-2] < x.shape[-1] else x.mT @ x


class _SquaredGram(torch.autograd.Function):
    """‖XᵀX‖² of each X (..., B, D), from the smaller of the two Gram matrices: ‖XᵀX‖_F = ‖XXᵀ‖_F.

    By hand because the gradient, 4·XXᵀX, takes one product where autograd, blind to the symmetry, takes two.
    """

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        gram = _gram(x)
        ctx.save_for_backward(x, gram)
        return gram.square().sum(dim=(-2, -1))

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        x, gram = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is asked for, and the saved matrix knows nothing of x
            gram = _gram(x)
        with without_autocast(x):
            product = gram @ x if x.shape[-2] < x.shape[-1] else x @ gram
        return 4 * grad[..., None, None] * product


def _centre(z: Tensor) -> tuple[Tensor, Tensor]:
    """The deviations from the batch mean (..., B, D) and the unbiased variances (..., D)."""
    if z.shape[-2] < 2:
        raise UsageError("variance and covariance need a batch of at least 2 images; raise the batch size")
    z = upcast(z)
    centred = z - z.mean(dim=-2, keepdim=True)
    return centred, centred.square().sum(dim=-2) / (z.shape[-2] - 1)


def _hinge(variance: Tensor, eps: float, gamma: float) -> Tensor:
    return torch.relu(gamma - torch.sqrt(variance + eps)).mean()


def _off_diagonal(centred: Tensor, variance: Tensor) -> Tensor:
    """Σ_{i≠j} C²_ij = ‖C‖² − Σ_i var_i², so that no mask and, for B < D, no D×D matrix is ever built."""
    samples, dim = centred.shape[-2:]
    squared_norm = _SquaredGram.apply(centred) / (samples - 1) ** 2
    return (squared_norm - variance.square().sum(dim=-1)).mean() / dim


def invariance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of two tensors of equal shape, (). VICReg, eq. 5, over D as its code has it."""
    return (upcast(a) - upcast(b)).square().mean()


def variance_hinge(z: Tensor, *, eps: float = 1e-4, gamma: float = 1.0) -> Tensor:
    """How far the standard deviations fall short of `gamma`: mean_d relu(γ − √(var_d + ε)), (). VICReg, eq. 1.

    Args:
        z: (B, D), or (..., B, D), whose leading dimensions are averaged over.
        eps: added to the unbiased variance, so that the gradient exists at zero.
        gamma: the standard deviation to reach.
    """
    return _hinge(_centre(z)[1], eps, gamma)


def covariance_penalty(z: Tensor) -> Tensor:
    """Mean per dimension of the squared covariances with the others: Σ_{i≠j} C²_ij / D, (). VICReg, eq. 4.

    Rounding is of the order of that of ‖C‖²/D, not of the penalty itself.

    Args:
        z: (B, D), or (..., B, D), whose leading dimensions are averaged over.
    """
    return _off_diagonal(*_centre(z))


def entropy(z: Tensor, *, noise: float = 0.1) -> Tensor:
    """½·log det(I + C/σ²) / D, (): the information that z + N(0, σ²I) carries about z, in nats a dimension.

    Exact for Gaussian z, an upper bound for any other of covariance C (Shwartz-Ziv et al. 2023, their LogDet). It is 0
    where all embeddings are the same, grows with the logarithm of their scale, and for a given total variance is
    largest where no direction stands out. For B < D from a B×B matrix, since det(I + XᵀX) = det(I + XXᵀ).

    Args:
        z: (B, D), or (..., B, D), whose leading dimensions are averaged over.
        noise: σ², under which variance no longer counts.
    """
    x = _centre(z)[0] / ((z.shape[-2] - 1) * noise) ** 0.5
    gram = _gram(x)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    return torch.linalg.cholesky(eye + gram).diagonal(dim1=-2, dim2=-1).log().sum(dim=-1).mean() / z.shape[-1]


def spread(z: Tensor) -> tuple[Tensor, Tensor]:
    """`variance_hinge(z)` and `covariance_penalty(z)`, centring once."""
    centred, variance = _centre(z)
    return _hinge(variance, 1e-4, 1.0), _off_diagonal(centred, variance)


def vicreg_loss(
    z_a: Tensor,
    z_b: Tensor,
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    entropy_weight: float = 0.0,
) -> Loss:
    """The VICReg loss of two views, on the batch joined over processes. VICReg, eq. 6, and its code.

    λ·MSE(z, z') + μ·½[v(z) + v(z')] + ν·[c(z) + c(z')] − η·½[h(z) + h(z')], with v the `variance_hinge`, c the
    `covariance_penalty` and h the `entropy`, which is not in VICReg itself.

    Args:
        z_a: (B, D) embeddings of one view; or (B, N, D), N of them, whose statistics and terms are averaged over the N.
        z_b: (B, D) embeddings of the other.
        invariance_weight: λ.
        variance_weight: μ.
        covariance_weight: ν.
        entropy_weight: η.

    Returns:
        A `Loss` with terms "invariance", "variance" and "covariance", and "entropy" where it has a weight.

    Raises:
        UsageError: if the joined batch has fewer than 2 images.
    """
    z_a, z_b = gather(upcast(z_a)).transpose(0, -2), gather(upcast(z_b))
    (variance_a, covariance_a), (variance_b, covariance_b) = spread(z_a), spread(z_b)
    terms = {
        "invariance": invariance_weight * invariance(z_a, z_b),
        "variance": variance_weight * (variance_a + variance_b) / 2,
        "covariance": covariance_weight * (covariance_a + covariance_b),
    }
    if entropy_weight:
        terms["entropy"] = -entropy_weight * (entropy(z_a) + entropy(z_b)) / 2
    return Loss.of(terms)


def view_pairs(views: int) -> dict[tuple[int, int], int]:
    """How often VICRegL compares each unordered pair of views: i in {0, 1} with every j ≠ i, 2(V−1) comparisons in all.

    Raises:
        UsageError: if there are fewer than 2 views.
    """
    if views < 2:
        raise UsageError(f"VICRegL compares views of the same image and got {views}; give at least 2")
    return {(0, 1): 2} | {(i, j): 1 for i in (0, 1) for j in range(2, views)}


def vicregl_global_loss(
    embeddings: Sequence[Tensor],
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Loss:
    """The global half of the VICRegL loss, on the batch joined over processes.

    Invariance is averaged over the pairs of `view_pairs`, variance and covariance over the views (so that the effective
    weight of the covariance is half that of `vicreg_loss`, which sums it over its two views).

    Args:
        embeddings: V tensors (B, D); the first two are those of the large crops.
        invariance_weight: λ.
        variance_weight: μ.
        covariance_weight: ν.

    Returns:
        A `Loss` with terms "global_invariance", "global_variance" and "global_covariance".

    Raises:
        UsageError: if there are fewer than 2 views, or fewer than 2 images in the joined batch.
    """
    pairs = view_pairs(len(embeddings))
    embeddings = [gather(upcast(z)) for z in embeddings]
    distances = [count * invariance(embeddings[i], embeddings[j]) for (i, j), count in pairs.items()]
    variances, covariances = zip(*map(spread, embeddings), strict=True)
    return Loss.of(
        {
            "global_invariance": invariance_weight * torch.stack(distances).sum() / sum(pairs.values()),
            "global_variance": variance_weight * torch.stack(variances).mean(),
            "global_covariance": covariance_weight * torch.stack(covariances).mean(),
        }
    )
