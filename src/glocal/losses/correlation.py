"""Barlow Twins: the cross-correlation of two views' embeddings is driven to the identity (Zbontar et al. 2021).

The batch is first joined over processes: value and gradient are those of the joined batch. (The authors' in-place
all-reduce of C passes 1/W of its gradient on W processes. LARS's adaptation hides that for weights, not for the biases
and norms: to repeat a run of their code on W processes, divide `Optimization.bias_lr_scale` by W.)
"""

from __future__ import annotations

from torch import Tensor

from glocal.distributed import gather
from glocal.errors import UsageError
from glocal.losses.loss import Loss, check_shapes, upcast, without_autocast


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


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, *, redundancy_weight: float = 0.0051) -> Loss:
    """Σ_i (1 − C_ii)² + λ·Σ_{i≠j} C_ij², with C the cross-correlation matrix. Barlow Twins, eq. 1 and 2.

    Args:
        z_a, z_b: (B, D) embeddings of the two views; 2 images at least in the joined batch.
        redundancy_weight: λ.

    Returns:
        A `Loss` with terms "invariance" and "redundancy".
    """
    check_shapes(z_a=(z_a, "B D"), z_b=(z_b, "B D"))
    a, b = (_standardise(gather(upcast(z))) for z in (z_a, z_b))
    diagonal = (a * b).mean(dim=0)
    redundancy = _squared_product(a, b) / len(a) ** 2 - diagonal.square().sum()
    return Loss.of({"invariance": (1 - diagonal).square().sum(), "redundancy": redundancy_weight * redundancy})
