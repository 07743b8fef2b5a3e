"""Ridge regression by moments, which add up over batches and over folds."""

from collections.abc import Sequence

import torch
from torch import Tensor


def moments(x: Tensor, y: Tensor) -> Tensor:
    """Sums of products (F+K+1, F+K+1) float64 of inputs (M, F), targets (M, K) and 1: all that a regression needs."""
    joined = torch.cat([x, y, torch.ones(len(x), 1)], 1).double()
    return joined.T @ joined


def ridge(total: Tensor, width: int, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
    """Weight (F, K) and bias (K,) of a ridge regression for each penalty, by `moments` and the number of inputs F.

    Inputs are as if standardised: each coefficient is penalised by its input's variance.
    """
    mean = total[-1, :-1] / total[-1, -1]
    covariance = total[:-1, :-1] / total[-1, -1] - mean[:, None] * mean
    scale = torch.diag(covariance.diagonal()[:width] + 1e-8)
    weights = [
        torch.linalg.solve(covariance[:width, :width] + p * scale, covariance[:width, width:]) for p in penalties
    ]
    return [(w.float(), (mean[width:] - mean[:width] @ w).float()) for w in weights]
