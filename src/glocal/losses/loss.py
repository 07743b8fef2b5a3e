"""`Loss`, what every objective returns, and how all of them check and cast what they are given."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from glocal.errors import UsageError


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


def upcast(x: Tensor) -> Tensor:
    """`x` in at least float32."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which products on the device of `x` keep the precision of their operands."""
    return torch.autocast(x.device.type, enabled=False)


def check_shapes(**tensors: tuple[Tensor, str]) -> None:
    """Refuse tensors that do not fit together; shapes and types are looked at only: no device is waited for.

    Args:
        **tensors: each with its dimensions: "B D", or "B ... D" where any may stand in between. A letter means the same
            size everywhere, a number itself. Nothing may be empty; what has several dimensions is floating point.

    Raises:
        UsageError: naming all shapes, those given and those expected.
    """
    sizes: dict[str, int] = {}
    for tensor, expected in tensors.values():
        first, dots, last = (part.split() for part in expected.partition("..."))
        shape, names = tuple(tensor.shape), first + last
        fits = len(shape) >= len(names) if dots else len(shape) == len(names)
        named = shape[: len(first)] + shape[len(shape) - len(last) :]
        for name, size in zip(names, named, strict=False):
            fits &= sizes.setdefault(name, int(name) if name.isdigit() else size) == size
        if not fits or 0 in shape or (len(shape) > 1 and not tensor.is_floating_point()):
            given = ", ".join(f"{name} {tuple(t.shape)} {str(t.dtype)[6:]}" for name, (t, _) in tensors.items())
            wanted = ", ".join(f"({text.replace(' ', ', ')})" for _, text in tensors.values())
            raise UsageError(f"cannot compute a loss of {given}; expected {wanted}, not empty, in floating point")
