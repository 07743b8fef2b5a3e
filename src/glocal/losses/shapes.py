"""One check for the inputs of all losses. It looks at shapes and types only, hence never waits for a device."""

from __future__ import annotations

from torch import Tensor

from glocal.errors import UsageError


def check_shapes(**tensors: tuple[Tensor, str]) -> None:
    """Refuse tensors that do not fit together.

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
