"""PCA whitening of features that are spread over processes."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.distributed import all_sum


@torch.no_grad()
def whiten(x: Tensor, dim: int) -> Tensor:
    """The leading principal components, each with variance 1 over the rows of all processes: (N, D) -> (N, d).

    d is `dim`, or the rank of the features where that is less: components without variance would be noise.

    Args:
        x: (N, D), this process's rows. Processes may hold different numbers of them.
        dim: components to keep.
    """
    x = x.double()  # a covariance of fp32 sums loses the small components
    total = all_sum(x.new_tensor([float(len(x))]))
    centred = x - all_sum(x.sum(dim=0)) / total
    variances, axes = torch.linalg.eigh(all_sum(centred.mT @ centred) / total)
    variances, axes = variances.flip(0)[:dim], axes.flip(1)[:, :dim]
    rank = int((variances > 1e-7 * variances[0]).sum())
    return (centred @ (axes[:, :rank] * variances[:rank].rsqrt())).float()
