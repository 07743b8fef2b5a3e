"""A student learns what a teacher says: cosine regression (BYOL), self-distillation (DINO), features as they are.

Teachers carry no gradient: whoever makes the targets detaches them. All losses are means over the batch, hence their
rank-mean is that of the joined batch.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.distributed import all_sum, world_size
from glocal.errors import UsageError
from glocal.losses.loss import check_shapes, upcast


def negative_cosine(prediction: Tensor, target: Tensor) -> Tensor:
    """−cos(p, z), the mean over all vectors (..., D), (). In [−1, 1]. BYOL (Grill et al.), eq. 2, is 2 + 2 × this."""
    check_shapes(prediction=(prediction, "B ... D"), target=(target, "B ... D"))
    return -F.cosine_similarity(upcast(prediction), upcast(target), dim=-1).mean()


@torch.no_grad()
def teacher_distribution(logits: Tensor, center: Tensor, temperature: float | Tensor) -> Tensor:
    """softmax((t − c)/τ), (B, K): the teacher's centred and sharpened output. DINO (Caron et al. 2021), sec. 3.1.

    Args:
        logits: (B, K), t.
        center: (K,), c.
        temperature: τ.
    """
    check_shapes(logits=(logits, "... K"), center=(center, "K"))
    return torch.softmax((upcast(logits) - center) / temperature, dim=-1)


def soft_cross_entropy(logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """−Σ_k q_k log softmax(s/τ)_k, the mean over all vectors, (). DINO, eq. 2.

    Args:
        logits: (B, K), or (B, N, K) with one target for the N.
        target: (B, K) distributions q.
        temperature: τ.
    """
    check_shapes(logits=(logits, "B ... K"), target=(target, "B K"))
    scaled = upcast(logits) / temperature
    expected = scaled if scaled.ndim == 2 else scaled.mean(dim=1)  # q is the same for all N, and the term is linear
    return scaled.logsumexp(dim=-1).mean() - (target * expected).sum(dim=-1).mean()


def dino_loss(students: Sequence[Tensor], targets: Sequence[Tensor], temperature: float = 0.1) -> Tensor:
    """Cross-entropies of each student view with the targets of the other views, their mean over the pairs, (). Eq. 3.

    A view's targets are averaged first, which changes nothing: the cross-entropy is linear in its target.

    Args:
        students: V tensors (B, K), logits.
        targets: T ≤ V tensors (B, K), `teacher_distribution` of the first views; view i is not compared with itself.
        temperature: of the student.
    """
    check_shapes(
        **{f"student {i}": (student, "B ... K") for i, student in enumerate(students)},
        **{f"target {i}": (target, "B K") for i, target in enumerate(targets)},
    )
    if len(students) < 2 or not 0 < len(targets) <= len(students):
        raise UsageError(f"views are compared with the targets of others; got {len(students)} and {len(targets)}")
    losses, pairs = [], 0
    for i, student in enumerate(students):
        others = [target for j, target in enumerate(targets) if j != i]
        if others:
            pairs += len(others)
            losses.append(len(others) * soft_cross_entropy(student, torch.stack(others).mean(dim=0), temperature))
    return torch.stack(losses).sum() / pairs


@torch.no_grad()
def moved_center(center: Tensor, logits: Sequence[Tensor], momentum: float = 0.9) -> Tensor:
    """c ← m·c + (1 − m)·mean of the teacher's logits (B, K) over views, images and processes, (K,). DINO, eq. 4."""
    check_shapes(center=(center, "K"), **{f"logits {i}": (each, "B K") for i, each in enumerate(logits)})
    mean = torch.stack([upcast(each).mean(dim=0) for each in logits]).mean(dim=0)
    return momentum * center + (1 - momentum) * all_sum(mean) / world_size()


@torch.no_grad()
def standardised(features: Tensor) -> Tensor:
    """(x − μ)/σ, (B, D): μ of each dimension, and one σ² for all, the mean of their variances, over all processes.

    One scale keeps the distances between features, and makes no more of a dimension that hardly varies (Ranzinger et
    al. 2024, arXiv:2410.01680). The mean squared error of a prediction of it is the share of variance that it misses.
    """
    check_shapes(features=(features, "B D"))
    x = upcast(features)
    centred = x - all_sum(x.mean(dim=0)) / world_size()
    variance = all_sum(centred.square().mean()) / world_size()
    return centred * variance.clamp_min(1e-12).rsqrt()
