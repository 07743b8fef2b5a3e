"""Invariance, variance and covariance: VICReg (Bardes, Ponce, LeCun 2022), and Barlow Twins (Zbontar et al. 2021).

`invariance`, `variance_hinge` and `covariance_penalty` work on the samples they are given. The `*_loss` functions first
join the batch over processes, which is to have 2 images at least: their statistics, values and gradients are its own.
"""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from glocal.distributed import all_sum, exchange, gather, world_size
from glocal.errors import UsageError
from glocal.losses.loss import Loss, check_shapes, upcast, without_autocast


def _gram(x: Tensor) -> Tensor:
    """The smaller of XXᵀ and XᵀX, which have the same norm: no D×D matrix is ever built where B×B says the same."""
    with without_autocast(x):
        return x @ x.mT if x.shape[-2] < x.shape[-1] else x.mT @ x


class _Moments(torch.autograd.Function):
    """The unbiased variances (S, D) and the squared norm ‖C‖² (S,) of the covariance matrix of each z (S, B, D).

    Plainly, `x = z - z.mean(1, keepdim=True); c = x.mT @ x / (B - 1)`, then `c.diagonal(dim1=1, dim2=2)` and
    `c.square().sum((1, 2))`. By hand because, X being the deviations from the mean, the gradient of both,
    X·diag(g) + 4γ·XXᵀX, has mean 0 already and takes one product, where autograd centres it again and, blind to the
    symmetry, takes two.
    """

    @staticmethod
    def forward(ctx, z: Tensor) -> tuple[Tensor, Tensor]:
        x, n = z - z.mean(dim=1, keepdim=True), z.shape[1] - 1
        gram = _gram(x)
        ctx.save_for_backward(z, gram)
        return x.square().sum(dim=1) / n, gram.square().sum(dim=(1, 2)) / n**2

    @staticmethod
    def backward(ctx, by_variance: Tensor, by_norm: Tensor) -> Tensor:
        z, gram = ctx.saved_tensors
        x, n = z - z.mean(dim=1, keepdim=True), z.shape[1] - 1
        if torch.is_grad_enabled():  # a second derivative is asked for, and the saved matrix knows nothing of z
            gram = _gram(x)
        gram = gram * (4 / n**2 * by_norm)[:, None, None]
        with without_autocast(x):
            return (x * (2 / n * by_variance)[:, None]).baddbmm_(*((gram, x) if z.shape[1] < z.shape[2] else (x, gram)))


class _ShardedMoments(torch.autograd.Function):
    """`_Moments` of the joined columns where each rank holds some: its variances (S, d), its share of ‖C‖² (S,).

    Plainly, with z of all columns: `_Moments(z)`, of which this rank takes its columns' variances and its rows of C².
    XXᵀ = Σ_r X_r X_rᵀ over the ranks' columns X_r, so that ‖C‖² is the sum of the shares ⟨X_r X_rᵀ, XXᵀ⟩, and the
    gradient of that sum to X_r, 4·XXᵀX_r, needs nothing of the other ranks.
    """

    @staticmethod
    def forward(ctx, z: Tensor) -> tuple[Tensor, Tensor]:
        x, n = z - z.mean(dim=1, keepdim=True), z.shape[1] - 1
        with without_autocast(x):
            mine = x @ x.mT
        gram = mine.clone()
        dist.all_reduce(gram)
        ctx.save_for_backward(x, gram)
        return x.square().sum(dim=1) / n, (mine * gram).sum(dim=(1, 2)) / n**2

    @staticmethod
    @once_differentiable
    def backward(ctx, by_variance: Tensor, by_norm: Tensor) -> Tensor:
        x, gram = ctx.saved_tensors
        n = x.shape[1] - 1
        with without_autocast(x):
            product = (gram * (4 / n**2 * by_norm)[:, None, None]) @ x
        return product.addcmul_(x, (2 / n * by_variance)[:, None])


def _moments(z: Tensor) -> tuple[Tensor, Tensor]:
    """Variances (S, D) and ‖C‖² (S,) of (..., B, D), S the product of the leading dimensions."""
    check_shapes(z=(z, "... B D"))
    if z.shape[-2] < 2:
        raise UsageError("variance and covariance need a batch of at least 2 images; raise the batch size")
    return _Moments.apply(upcast(z).reshape(-1, *z.shape[-2:]))


def _hinge(variance: Tensor, eps: float = 1e-4, gamma: float = 1.0) -> Tensor:
    return torch.relu(gamma - torch.sqrt(variance + eps))


def _off_diagonal(variance: Tensor, squared_norm: Tensor) -> Tensor:
    """Σ_{i≠j} C²_ij = ‖C‖² − Σ_i var_i², so that no mask is needed: (S, D), (S,) -> (S,)."""
    return squared_norm - variance.square().sum(dim=-1)


def variance_and_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """The `variance_hinge` and the `covariance_penalty` of each (B, D) in (S, B, D), centring once: (S,) and (S,)."""
    variance, squared_norm = _moments(z)
    return _hinge(variance).mean(dim=-1), _off_diagonal(variance, squared_norm) / z.shape[-1]


def joined_variance_and_covariance(z: Tensor) -> tuple[Tensor, Tensor]:
    """This process's share of `variance_and_covariance` of the batch joined over processes: (V, B, D) -> (V,) and (V,).

    Each process takes some of the columns, of all samples; the shares add up.
    """
    if world_size() == 1:
        return variance_and_covariance(z)
    columns = exchange(z.transpose(0, 2)).transpose(0, 2).contiguous()
    variance, squared_norm = _ShardedMoments.apply(columns)
    return _hinge(variance).sum(dim=-1) / z.shape[-1], _off_diagonal(variance, squared_norm) / z.shape[-1]


def invariance(a: Tensor, b: Tensor) -> Tensor:
    """Mean squared difference of two tensors (..., B, D), (); one may stand for several. VICReg, eq. 5, over D."""
    check_shapes(a=(a, "... B D"), b=(b, "... B D"))
    a, b = torch.broadcast_tensors(upcast(a), upcast(b))
    return F.mse_loss(a, b)


def variance_hinge(z: Tensor, *, eps: float = 1e-4, gamma: float = 1.0) -> Tensor:
    """How far the standard deviations fall short of `gamma`: mean_d relu(γ − √(var_d + ε)), (). VICReg, eq. 1.

    Args:
        z: (B, D), or (..., B, D), whose leading dimensions are averaged over.
        eps: added to the unbiased variance, so that the gradient exists at zero.
        gamma: the standard deviation to reach.
    """
    return _hinge(_moments(z)[0], eps, gamma).mean()


def covariance_penalty(z: Tensor) -> Tensor:
    """Mean per dimension of the squared covariances with the others: Σ_{i≠j} C²_ij / D, (). VICReg, eq. 4.

    Rounding is of the order of that of ‖C‖²/D, not of the penalty itself.

    Args:
        z: (B, D), or (..., B, D), whose leading dimensions are averaged over.
    """
    return _off_diagonal(*_moments(z)).mean() / z.shape[-1]


def entropy(z: Tensor, *, noise: float = 0.1) -> Tensor:
    """½·log det(I + C/σ²) / D, (): the information that z + N(0, σ²I) carries about z, in nats a dimension.

    Exact for Gaussian z, an upper bound for any other of covariance C (Shwartz-Ziv et al. 2023, their LogDet). It is 0
    where all embeddings are the same, grows with the logarithm of their scale, and for a given total variance is
    largest where no direction stands out. For B < D from a B×B matrix, since det(I + XᵀX) = det(I + XXᵀ).

    Args:
        z: (B, D), or (..., B, D), whose leading dimensions are averaged over.
        noise: σ², under which variance no longer counts.
    """
    check_shapes(z=(z, "... B D"))
    if z.shape[-2] < 2:
        raise UsageError("an entropy needs a batch of at least 2 images; raise the batch size")
    z = upcast(z)
    x = (z - z.mean(dim=-2, keepdim=True)) / ((z.shape[-2] - 1) * noise) ** 0.5
    gram = _gram(x)
    eye = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    root = torch.linalg.cholesky_ex(eye + gram).L  # which does not wait to see whether there is one: NaN stays NaN
    return root.diagonal(dim1=-2, dim2=-1).log().sum(dim=-1).mean() / z.shape[-1]


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
        invariance_weight, variance_weight, covariance_weight, entropy_weight: λ, μ, ν, η.

    Returns:
        A `Loss` with terms "invariance", "variance" and "covariance", and "entropy" where it has a weight.
    """
    check_shapes(z_a=(z_a, "B D" if z_a.ndim < 3 else "B N D"), z_b=(z_b, "B D"))
    z_a, z_b = upcast(z_a).transpose(0, -2), upcast(z_b)
    sets = [z.reshape(-1, *z.shape[-2:]) for z in (z_a, z_b)]
    moments = joined_variance_and_covariance(torch.cat(sets))
    variance, covariance = (moment.split([len(s) for s in sets]) for moment in moments)
    spreads = (variance[0].mean() + variance[1].mean()) / 2, covariance[0].mean() + covariance[1].mean()
    shares = torch.stack([invariance(z_a, z_b) / world_size(), *spreads])
    terms = weighted("", shares, invariance_weight, variance_weight, covariance_weight)
    if entropy_weight:
        joined = [gather(s.transpose(0, 1)).transpose(0, 1) for s in sets]
        terms["entropy"] = -entropy_weight * (entropy(joined[0]) + entropy(joined[1])) / 2
    return Loss.of(terms)


def weighted(prefix: str, shares: Tensor, *weights: float) -> dict[str, Tensor]:
    """The terms invariance, variance and covariance (3,), each the sum of the processes' shares of it."""
    names = (f"{prefix}{name}" for name in ("invariance", "variance", "covariance"))
    return {name: w * term for name, w, term in zip(names, weights, all_sum(shares).unbind(), strict=True)}


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, *, redundancy_weight: float = 0.0051) -> Loss:
    """Σ_i (1 − C_ii)² + λ·Σ_{i≠j} C_ij², with C the cross-correlation matrix (Zbontar et al. 2021, eq. 1 and 2).

    The authors' in-place all-reduce of C passes 1/W of its gradient on W processes. LARS's adaptation hides that for
    weights, not for the biases and norms: to repeat a run of their code on W processes, divide
    `Optimization.bias_lr_scale` by W.

    Args:
        z_a, z_b: (B, D) embeddings of the two views.
        redundancy_weight: λ.

    Returns:
        A `Loss` with terms "invariance" and "redundancy".
    """
    check_shapes(z_a=(z_a, "B D"), z_b=(z_b, "B D"))
    a, b = (_standardise(gather(upcast(z))) for z in (z_a, z_b))
    diagonal = (a * b).mean(dim=0)
    redundancy = _squared_product(a, b) / len(a) ** 2 - diagonal.square().sum()
    return Loss.of({"invariance": (1 - diagonal).square().sum(), "redundancy": redundancy_weight * redundancy})


def _standardise(z: Tensor) -> Tensor:
    """Each dimension with mean 0 and variance 1 over the batch, as batch normalisation without affine has it."""
    if len(z) < 2:
        raise UsageError("a correlation needs a batch of at least 2 images; raise the batch size")
    centred = z - z.mean(dim=0)
    return centred * (centred.square().mean(dim=0) + 1e-5).rsqrt()


def _squared_product(a: Tensor, b: Tensor) -> Tensor:
    """‖AᵀB‖², () of (B, D) each: from two B×B Gram matrices, tr(AAᵀ·BBᵀ), where they are the cheaper way."""
    with without_autocast(a):
        if 2 * len(a) < a.shape[1]:
            return ((a @ a.mT) * (b @ b.mT)).sum()
        return (a.mT @ b).square().sum()
