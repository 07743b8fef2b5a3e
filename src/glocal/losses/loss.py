"""`Loss`, what every objective returns: one number to minimise and the named numbers it is made of."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Loss:
    """A scalar to minimise and its named parts.

    Attributes:
        total: () float32 with gradient (float64 where the inputs are).
        terms: name -> () without gradient, weighted as they enter the total, for the log.
    """

    total: Tensor
    terms: dict[str, Tensor]

    @classmethod
    def of(cls, terms: dict[str, Tensor]) -> Loss:
        """The loss that is the sum of these weighted terms."""
        return cls(torch.stack(list(terms.values())).sum(), {name: term.detach() for name, term in terms.items()})
