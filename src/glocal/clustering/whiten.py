"""PCA whitening of features that are spread over processes."""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.distributed import all_sum

CHUNK = 8192
"""Rows in double precision at a time: all of them would take several times the memory of the features."""


@torch.no_grad()
def whiten(x: Tensor, dim: int) -> Tensor:
    """The leading principal components, each with variance 1 over the rows of all processes: (N, D) -> (N, d).

    d is `dim`, or the rank of the features where that is less: components without variance would be noise.

    Args:
        x: (N, D), this process's rows. Processes may hold different numbers of them.
        dim: components to keep.
    """
    parts = x.split(CHUNK)
    total = all_sum(torch.tensor([float(len(x))], dtype=torch.float64, device=x.device))
    mean = all_sum(torch.stack([part.double().sum(dim=0) for part in parts]).sum(dim=0)) / total
    covariance = mean.new_zeros(x.shape[1], x.shape[1])
    for part in parts:  # a covariance of fp32 sums loses the small components
        centred = part.double() - mean
        covariance.addmm_(centred.mT, centred)
    variances, axes = torch.linalg.eigh(all_sum(covariance) / total)
    variances, axes = variances.flip(0)[:dim], axes.flip(1)[:, :dim]
    rank = int((variances > 1e-7 * variances[0]).sum())
    scaled = axes[:, :rank] * variances[:rank].rsqrt()
    return torch.cat([((part.double() - mean) @ scaled).float() for part in parts])
