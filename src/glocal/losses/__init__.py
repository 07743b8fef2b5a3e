"""Pure functions on tensors.

All compute in float32, or float64 where the inputs are, whatever the autocast. Shapes that do not fit together are a
`UsageError`. Losses say which value, and gradient, they give on several processes: that of the joined batch.
"""

from glocal.losses.assignment import mean_entropy, sharpen, sinkhorn
from glocal.losses.contrastive import (
    contrast,
    contrast_hard,
    contrast_pairs,
    contrast_queue,
    dcl,
    decoupled_contrast,
    info_nce,
    mises_fisher_weights,
)
from glocal.losses.covariance import (
    barlow_twins_loss,
    covariance_penalty,
    entropy,
    invariance,
    variance_hinge,
    vicreg_loss,
)
from glocal.losses.loss import Loss, without_autocast
from glocal.losses.matching import vicregl_global_loss, vicregl_local_loss, vicregl_loss

__all__ = [
    "Loss", "barlow_twins_loss", "contrast", "contrast_hard", "contrast_pairs", "contrast_queue",
    "covariance_penalty", "dcl", "decoupled_contrast", "entropy", "info_nce", "invariance", "mean_entropy",
    "mises_fisher_weights", "sharpen", "sinkhorn", "variance_hinge", "vicreg_loss", "vicregl_global_loss",
    "vicregl_local_loss", "vicregl_loss", "without_autocast",
]  # fmt: skip
