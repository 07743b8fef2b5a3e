"""Soft assignments to prototypes: balanced codes (Sinkhorn-Knopp), sharpening, and the entropy of the mean.

SwAV and SEER, MSN and LOCA balance codes over the batch joined over processes; PAWS, MSN and LOCA sharpen targets and
keep the mean prediction spread out. All is in float32, or float64 where the inputs are; codes are computed in the
log domain, where exp(20), infinite in half precision, never occurs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from glocal.distributed import all_sum, gather, world_size
from glocal.losses.covariance import upcast
from glocal.losses.shapes import check_shapes


@torch.no_grad()
def sinkhorn(scores: Tensor, epsilon: float = 0.05, rounds: int = 3) -> Tensor:
    """Codes (B, K) without gradient: each sample's sum to 1, and each prototype gets about as much as any other.

    Q ∝ exp(S/ε), its columns (over the samples of all processes) and its rows normalised in turn, rows last. SwAV
    (Caron et al. 2020), eq. 3. The more rounds, the more equal the prototypes' shares; no rounds give softmax(S/ε).

    Args:
        scores: (B, K), S, this process's samples. Processes may hold different numbers of them.
        epsilon: ε; the smaller, the harder the codes.
        rounds: of normalisation.
    """
    check_shapes(scores=(scores, "B K"))
    log_codes = upcast(scores) / epsilon
    for _ in range(rounds):
        log_codes = log_codes - gather(log_codes.logsumexp(dim=0, keepdim=True)).logsumexp(dim=0)
        log_codes = log_codes.log_softmax(dim=1)
    return log_codes.softmax(dim=1)


def sharpen(probabilities: Tensor, temperature: float) -> Tensor:
    """p^(1/T) / Σ p^(1/T) over the last dimension, (..., K): sharpen(softmax(s/τ), T) = softmax(s/(τ·T)).

    Args:
        probabilities: (..., K), p.
        temperature: T; below 1 the largest gain.
    """
    check_shapes(probabilities=(probabilities, "... K"))
    p = upcast(probabilities)
    power = (p / p.detach().amax(dim=-1, keepdim=True)).pow(1 / temperature)  # the scale cancels; nothing underflows
    return power / power.sum(dim=-1, keepdim=True)


def mean_entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats of the mean prediction over all samples of all processes, (); from 0 to ln K.

    To be maximised ("me-max"): MSN (Assran et al. 2022), eq. 2; PAWS (Assran et al. 2021), sec. 3.

    Args:
        probabilities: (..., K), equally many vectors on each process.
    """
    check_shapes(probabilities=(probabilities, "B ... K"))
    p = upcast(probabilities).flatten(0, -2)
    mean = all_sum(p.mean(dim=0)) / world_size()
    return -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()
