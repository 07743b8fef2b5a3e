"""Soft assignments to prototypes, labels and clusters: SwAV and SEER, MSN, PAWS, LOCA.

Targets carry no gradient. Codes are balanced over the batch joined over processes, in the log domain, where exp(20),
infinite in half precision, never occurs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.distributed import all_sum, gather, world_size
from glocal.errors import UsageError
from glocal.losses.loss import check_shapes, upcast, without_autocast


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
    """p^(1/T) / Σ p^(1/T) over the last dimension, (..., K); below T = 1 the largest gain."""
    check_shapes(probabilities=(probabilities, "... K"))
    p = upcast(probabilities)
    power = (p / p.detach().amax(dim=-1, keepdim=True)).pow(1 / temperature)  # the scale cancels; nothing underflows
    return power / power.sum(dim=-1, keepdim=True)


def mean_entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats of the mean of predictions (..., K), equally many on each process, (); from 0 to ln K.

    To be maximised ("me-max"): MSN (Assran et al. 2022), eq. 2; PAWS (Assran et al. 2021), sec. 3.
    """
    check_shapes(probabilities=(probabilities, "B ... K"))
    p = upcast(probabilities).flatten(0, -2)
    mean = all_sum(p.mean(dim=0)) / world_size()
    return -(mean * mean.clamp_min(torch.finfo(mean.dtype).tiny).log()).sum()


def cosine_scores(queries: Tensor, supports: Tensor) -> Tensor:
    """Cosine similarities (..., S) of queries (..., D) with S vectors (S, D)."""
    check_shapes(queries=(queries, "... D"), supports=(supports, "S D"))
    with without_autocast(queries):
        return F.normalize(upcast(queries), dim=-1) @ F.normalize(upcast(supports), dim=-1).mT


@torch.no_grad()
def balanced_targets(scores: Tensor, temperature: float, rounds: int = 3) -> Tensor:
    """softmax(s/τ), then `rounds` of Sinkhorn normalisation, (B, K).

    With τ·T in place of τ they are sharpened first, as sharpen(softmax(s/τ), T) = softmax(s/(τ·T)): MSN (Assran et al.
    2022), sec. 3; LOCA (Caron et al. 2024), sec. 3.

    Args:
        scores: (B, K), s.
        temperature: τ.
        rounds: 0 for the softmax alone.
    """
    return sinkhorn((upcast(scores) / temperature).log_softmax(dim=-1), epsilon=1.0, rounds=rounds)


def support_predictions(
    queries: Tensor,
    supports: Tensor,
    labels: Tensor,
    temperature: float = 0.1,
    smoothing: float = 0.1,
    classes: int | None = None,
) -> Tensor:
    """π(x) = softmax(cos(z, S)/τ)·Y, (..., K): labels by similarity to labelled samples. PAWS, eq. 1.

    Args:
        queries: (..., D), z.
        supports: (S, D), of this process; those of all are taken.
        labels: (S,) int64, likewise; K is the number of different ones.
        temperature: τ.
        smoothing: share of the uniform distribution in the rows of Y.
        classes: K, where it is known; None: it is counted, for which a GPU is waited for.
    """
    check_shapes(supports=(supports, "S D"), labels=(labels, "S"))
    similarity = (cosine_scores(queries, gather(supports)) / temperature).softmax(dim=-1)
    ordered, order = gather(labels).sort()
    rank_of = F.pad((ordered[1:] != ordered[:-1]).cumsum(0), (1, 0))  # among the different ones
    classes = int(rank_of[-1]) + 1 if classes is None else classes
    one_hot = F.one_hot(torch.empty_like(order).scatter_(0, order, rank_of), classes).to(similarity.dtype)
    with without_autocast(similarity):
        return similarity @ ((1 - smoothing) * one_hot + smoothing / classes)


@torch.no_grad()
def swapped_targets(probabilities: Tensor, views: int, sharpening: float = 0.25) -> Tensor:
    """Targets (views, B, K) from the predictions (2, B, K) of two large views. PAWS, sec. 3 and appendix.

    Sharpened; each large view gets those of the other, further views the mean of both; what is below 1e-4 is set to 0.

    `sharpening` is T.
    """
    check_shapes(probabilities=(probabilities, "2 B K"))
    if views < 2:
        raise UsageError(f"targets are swapped between two large views, got views={views}")
    sharp = sharpen(probabilities, sharpening)
    targets = torch.cat([sharp.flip(0), sharp.mean(dim=0).expand(views - 2, *sharp.shape[1:])])
    return targets.masked_fill(targets < 1e-4, 0.0)  # and NaN stays


def cross_entropy(probabilities: Tensor, targets: Tensor) -> Tensor:
    """−Σ_k q_k log p_k, the mean over all vectors p and q (..., K), (). For what is not a softmax of something."""
    check_shapes(probabilities=(probabilities, "B ... K"), targets=(targets, " ".join(map(str, probabilities.shape))))
    p = upcast(probabilities)
    return -(targets * p.clamp_min(torch.finfo(p.dtype).tiny).log()).sum(dim=-1).mean()


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the values (N,) where the mask (N,) says so, over all processes, (); 0 where it nowhere does."""
    check_shapes(values=(values, "N"), mask=(mask, "N"))
    return all_sum(values.where(mask, 0.0).sum()) / all_sum(mask.to(values.dtype).sum()).clamp_min(1)
