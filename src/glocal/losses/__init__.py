"""Pure functions on tensors."""

from glocal.losses.covariance import (
    covariance_penalty,
    invariance,
    variance_hinge,
    vicreg_loss,
    vicregl_global_loss,
)
from glocal.losses.loss import Loss
from glocal.losses.matching import vicregl_local_loss, vicregl_loss

__all__ = [
    "Loss",
    "covariance_penalty",
    "invariance",
    "variance_hinge",
    "vicreg_loss",
    "vicregl_global_loss",
    "vicregl_local_loss",
    "vicregl_loss",
]
