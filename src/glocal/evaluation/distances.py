"""How alike two collections are, by their features: distances of Fréchet and of kernels, precision and recall."""

import torch
from torch import Tensor

from glocal.errors import UsageError

ROWS = 1024
"""Rows at a time that are compared with all others."""


def frechet_distance(a: Tensor, b: Tensor) -> float:
    """‖µ₁ − µ₂‖² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½) of the Gaussians fitted to features (N, D) and (M, D), "FID".

    Heusel et al. 2017 (arXiv:1706.08500), eq. 6. In double precision; it falls with the number of rows, so that only
    numbers from equally many can be compared.
    """
    (mean_a, cov_a), (mean_b, cov_b) = ((x.double().mean(0), x.double().T.cov()) for x in (a, b))
    values, axes = torch.linalg.eigh(cov_a)
    root = axes * values.clamp_min(0).sqrt() @ axes.T
    cross = torch.linalg.eigvalsh(root @ cov_b @ root).clamp_min(0).sqrt().sum()
    return float((mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross)


def kernel_distance(a: Tensor, b: Tensor, parts: int = 20) -> tuple[float, float]:
    """Unbiased squared maximum mean discrepancy of features (N, D) and (M, D), "KID", and its standard error.

    With the kernel (x·y/D + 1)³ of Binkowski et al. 2018 (arXiv:1801.01401). The error is the jackknife's, which leaves
    out one of `parts` parts of both at a time.
    """
    parts = min(parts, len(a), len(b))
    if parts < 2 or min(len(a), len(b)) < 4:
        raise UsageError(f"{len(a)} and {len(b)} images: compare at least 4 with 4")
    sides = [(x.double(), torch.arange(len(x), device=x.device) % parts) for x in (a, b)]

    def sums(first: int, second: int) -> Tensor:
        """The kernel between parts (P, P), summed; without that of a row with itself."""
        (x, of_x), (y, of_y) = sides[first], sides[second]
        rows = x.new_zeros(len(x), parts)
        for start in range(0, len(x), ROWS):
            kernel = (x[start : start + ROWS] @ y.T / x.shape[1] + 1) ** 3
            if first == second:
                kernel.diagonal(start).zero_()
            rows[start : start + ROWS].index_add_(1, of_y, kernel)
        return x.new_zeros(parts, parts).index_add_(0, of_x, rows)

    within_a, within_b, between = sums(0, 0), sums(1, 1), sums(0, 1)
    counts = [torch.bincount(of, minlength=parts).double() for _, of in sides]

    def distance(kept: Tensor) -> Tensor:
        n, m = ((count * kept).sum() for count in counts)
        aa, bb, ab = (kept @ each @ kept for each in (within_a, within_b, between))
        return aa / (n * (n - 1)) + bb / (m * (m - 1)) - 2 * ab / (n * m)

    ones = torch.ones(parts, dtype=torch.float64, device=a.device)
    left_out = torch.stack([distance(ones - one) for one in torch.eye(parts, dtype=torch.float64, device=a.device)])
    error = ((parts - 1) / parts * (left_out - left_out.mean()).square().sum()).sqrt()
    return float(distance(ones)), float(error)


def precision_recall(real: Tensor, made: Tensor, k: int = 3) -> tuple[float, float]:
    """Shares of made features (M, D) near real ones (N, D), and of real ones near made ones.

    Near: no further from one of them than its k-th neighbour among its own kind (Kynkäänniemi et al. 2019,
    arXiv:1904.06991).
    """
    real, made = real.float(), made.float()
    return _covered(made, real, k), _covered(real, made, k)


def _covered(points: Tensor, centres: Tensor, k: int) -> float:
    """The share of points (M, D) in the ball of a centre (N, D), which reaches to its k-th neighbour among centres."""
    near = lambda rows: torch.cdist(rows, centres)
    k = min(k, len(centres) - 1)
    radius = torch.cat([near(rows).topk(k + 1, largest=False).values[:, k] for rows in centres.split(ROWS)])
    return float(torch.cat([(near(rows) <= radius).any(1) for rows in points.split(ROWS)]).double().mean())
