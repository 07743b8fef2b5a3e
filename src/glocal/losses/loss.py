"""`Loss`, what every objective returns: one number to minimise and the named numbers it is made of."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass
class Loss:
    """A scalar to minimise and its named parts.

    Attributes:
        total: () float32 with gradient.
        terms: name -> () float32 without gradient, weighted as they enter the total, for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]
