"""Contrastive losses: the other view of an image is told from all other images of the batch.

InfoNCE in the NT-Xent form of SimCLR (Chen et al. 2020, eq. 1), its decoupled form DCL and DCLW (Yeh et al. 2022), and
`contrast`, between queries and keys that come from different networks (MoCo-v3, NNCLR). Vectors are L2-normalised here.

On several processes each rank takes its own images as anchors and those of all ranks as negatives: the mean of its loss
over ranks, and the averaged gradient, are those of the joined batch, which is to have 2 images at least.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.distributed import gather, rank
from glocal.errors import UsageError
from glocal.losses.loss import check_shapes, upcast, without_autocast


def _similarities(queries: Tensor, keys: Tensor) -> Tensor:
    with without_autocast(queries):
        return queries @ keys.mT


def _unit(z: Tensor) -> Tensor:
    return F.normalize(upcast(z), dim=-1)


def _log_negatives(logits: Tensor, copies: int = 1) -> Tensor:
    """log Σ exp over the columns of (..., copies·B, copies·B·W) that show another image than the row does.

    Rows and columns come in `copies` blocks that list the same images in order.
    """
    rows, columns = logits.shape[-2] // copies, logits.shape[-1] // copies
    if columns < 2:
        raise UsageError("a contrastive loss needs a batch of at least 2 images; raise the batch size")
    own = torch.zeros(rows, columns, dtype=torch.bool, device=logits.device)
    own.diagonal(rank() * rows).fill_(True)
    return logits.masked_fill(own.repeat(copies, copies), -torch.inf).logsumexp(dim=-1)


def _decoupled_terms(queries: Tensor, keys: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """s_ii/τ and log Σ_{j≠i} exp(s_ij/τ), (..., B) each."""
    check_shapes(queries=(queries, "... B D"), keys=(keys, "B D"))
    queries, keys = _unit(queries), _unit(keys)
    positive = (queries * keys).sum(dim=-1)
    return positive / temperature, _log_negatives(_similarities(queries, gather(keys)) / temperature)


def contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of finding, among the keys of all images, that of the query's own image, ().

    mean_i −log(exp(q_i·k_i/τ) / Σ_j exp(q_i·k_j/τ)), one direction; gradients flow into both (detach the keys of a
    momentum encoder).

    Args:
        queries: (B, D), or (..., B, D), whose leading dimensions are averaged over.
        keys: (B, D), row i of the same image as row i of `queries`.
        temperature: τ.
    """
    positive, negatives = _decoupled_terms(queries, keys, temperature)
    return (torch.logaddexp(positive, negatives) - positive).mean()


def contrast_queue(
    queries: Tensor, keys: Tensor, negatives: Tensor, temperature: float, same: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding each query's own key among the embeddings of a queue, (). He et al. 2020, eq. 1.

    mean_i −log(exp(q_i·k_i/τ) / (exp(q_i·k_i/τ) + Σ_j exp(q_i·n_j/τ))). Of the vectors as they are, not normalised; the
    keys of the other queries are no negatives. The rank-mean is the joined batch's where all ranks have one queue.

    Args:
        queries: (B, D).
        keys: (B, D), row i belongs to row i of `queries`.
        negatives: (K, D).
        temperature: τ.
        same: (B, K) bool, which of these are of the query's own sample and left out; None: none.
    """
    check_shapes(queries=(queries, "B D"), keys=(keys, "B D"), negatives=(negatives, "K D"))
    queries, keys, negatives = upcast(queries), upcast(keys), upcast(negatives)
    positive = (queries * keys).sum(1) / temperature
    logits = _similarities(queries, negatives) / temperature
    others = (logits if same is None else logits.masked_fill(same, -torch.inf)).logsumexp(1)
    return (torch.logaddexp(positive, others) - positive).mean()


def contrast_pairs(a: Tensor, b: Tensor, what: Tensor, temperature: Tensor) -> Tensor:
    """Cross-entropy of finding each other, an image's and a text's vector, (B,); of both directions the mean.

    With s_ij = a_i·b_j/τ: −½ log(exp(s_ii) / Σ_j exp(s_ij)) − ½ log(exp(s_ii) / Σ_j exp(s_ji)), where j are i itself
    and the pairs of all processes that have another text. The mean over ranks of means is that of the joined batch.

    Args:
        a, b: (B, D).
        what: (B,) int64, which text: equal ones are no negatives of each other.
        temperature: τ, ().
    """
    check_shapes(a=(a, "B D"), b=(b, "B D"), what=(what, "B"))
    a, b = _unit(a), _unit(b)
    same = what[:, None] == gather(what)
    same.diagonal(rank() * len(a)).fill_(False)
    found = (a * b).sum(1) / temperature
    total = torch.zeros_like(found)
    for x, y in ((a, b), (b, a)):
        total = total + (_similarities(x, gather(y)) / temperature).masked_fill(same, -torch.inf).logsumexp(1)
    return total / 2 - found


def contrast_hard(
    queries: Tensor, keys: Tensor, temperature: float, hard: Tensor | None = None, there: Tensor | None = None
) -> Tensor:
    """Cross-entropy of finding each query's own key among all keys and its own hard negatives, (). 1 by chance.

    mean_i −log(exp(q_i·k_i/τ) / (Σ_j exp(q_i·k_j/τ) + Σ_n exp(q_i·h_in/τ))) / log(number of candidates); Momeni et al.
    2023 (arXiv:2304.06708), video to text; without `hard` text to video and video to verb phrase. Another query's hard
    negatives are none of its candidates: they would be nearly as easy as any key.

    Args:
        queries, keys: (B, D), row i of one belongs to row i of the other.
        temperature: τ.
        hard: (B, N, D), or None.
        there: (B, N) bool, which of these there are; None: all.
    """
    check_shapes(queries=(queries, "B D"), keys=(keys, "B D"))
    q, k = _unit(queries), gather(_unit(keys))
    if len(k) < 2:
        raise UsageError("a contrastive loss needs a batch of at least 2 samples; raise the batch size")
    logits, candidates = _similarities(q, k) / temperature, torch.full((len(q),), float(len(k)), device=q.device)
    own = logits[torch.arange(len(q), device=q.device), rank() * len(q) + torch.arange(len(q), device=q.device)]
    if hard is not None:
        there = torch.ones(hard.shape[:2], dtype=torch.bool, device=hard.device) if there is None else there
        more = _similarities(_unit(hard), q[:, None])[..., 0] / temperature
        logits = torch.cat([logits, more.masked_fill(~there, -torch.inf)], 1)
        candidates = candidates + there.sum(1)
    return ((logits.logsumexp(1) - own) / candidates.log()).mean()


def decoupled_contrast(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """`contrast` without the positive among the denominator's terms, (). See `dcl`."""
    positive, negatives = _decoupled_terms(queries, keys, temperature)
    return (negatives - positive).mean()


def _nt_xent_terms(z_a: Tensor, z_b: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """The similarity over τ of each anchor to its positive, and the log-sum over its 2B·W − 2 negatives, (2B,) each."""
    check_shapes(z_a=(z_a, "B D"), z_b=(z_b, "B D"))
    a, b = _unit(z_a), _unit(z_b)
    logits = _similarities(torch.cat([a, b]), torch.cat([gather(a), gather(b)])) / temperature
    return (a * b).sum(dim=1).repeat(2) / temperature, _log_negatives(logits, copies=2)


def info_nce(z_a: Tensor, z_b: Tensor, temperature: float = 0.1) -> Tensor:
    """NT-Xent, (). SimCLR, eq. 1: each of the 2B views finds the other view of its image among all other views.

    Args:
        z_a, z_b: (B, D) embeddings of the two views.
        temperature: τ.
    """
    positive, negatives = _nt_xent_terms(z_a, z_b, temperature)
    return (torch.logaddexp(positive, negatives) - positive).mean()


def dcl(z_a: Tensor, z_b: Tensor, temperature: float = 0.1, weights: Tensor | None = None) -> Tensor:
    """Decoupled contrastive loss, (): InfoNCE without the positive in the denominator. Yeh et al. 2022, eq. 6.

    Per anchor, InfoNCE = softplus(DCL): hence ∇InfoNCE = sigmoid(DCL)·∇DCL, a factor that vanishes where the batch is
    small and the negatives are easy; DCL has it not.

    Args:
        z_a, z_b: (B, D) embeddings of the two views.
        temperature: τ.
        weights: (B,) weights of the positives (DCLW, eq. 7), see `mises_fisher_weights`; None for 1.
    """
    positive, negatives = _nt_xent_terms(z_a, z_b, temperature)
    if weights is not None:
        check_shapes(z_a=(z_a, "B D"), weights=(weights, "B"))
        positive = weights.repeat(2) * positive
    return (negatives - positive).mean()


def mises_fisher_weights(z_a: Tensor, z_b: Tensor, sigma: float = 0.5) -> Tensor:
    """DCLW's weights of the positives, (B,): 2 − N·softmax_i(z_a·z_b/σ) over the N joined images, 1 on average.

    The further apart the views of an image, the more its positive weighs. Gradients flow through the weights, as in the
    authors' code; detach them for lightly's version.
    """
    check_shapes(z_a=(z_a, "B D"), z_b=(z_b, "B D"))
    similarity = (_unit(z_a) * _unit(z_b)).sum(dim=1) / sigma
    joined = gather(similarity)
    return 2 - len(joined) * (similarity - joined.logsumexp(dim=0)).exp()
