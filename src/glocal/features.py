"""`Features`: what every backbone returns, whatever its architecture. `Sequences`: images of any shape, one batch."""

import math
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor


@dataclass  # not frozen: Fabric, which converts what goes into a module, refuses frozen ones
class Sequences:
    """The patches of B images of any shapes, packed into S sequences of L places (Dehghani et al. 2023, NaViT).

    An image's patches lie side by side in one sequence, some perhaps left out. `glocal.views.packing` makes them.

    Attributes:
        patches: (S, L, 3·p²) float32, each p rows of p pixels of 3 channels; 0 where nothing is.
        image: (S, L) int64, which image a patch is of, -1 where nothing is; in main memory, where it is decided by it.
        positions: (S, L, 2) int64, (x, y) of the patch in the grid of its image.
        grids: (B, 2) int64, the rows and columns that each image was cut into; in main memory, too.
    """

    patches: Tensor
    image: Tensor
    positions: Tensor
    grids: Tensor

    def __len__(self) -> int:
        """B, the number of images."""
        return len(self.grids)

    @property
    def device(self) -> torch.device:
        """Where the patches are."""
        return self.patches.device

    @property
    def patch(self) -> int:
        """p, the side of a patch, pixels."""
        return math.isqrt(self.patches.shape[-1] // 3)

    @property
    def waste(self) -> float:
        """The share of places that nothing is at."""
        return float((self.image < 0).double().mean())

    def is_floating_point(self) -> bool:
        """As a tensor would answer: they are normalised already."""
        return True

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same patches on another device."""
        moved = {name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("patches", "positions")}
        return replace(self, **moved)


@dataclass(frozen=True)
class Features:
    """A batch of images, or of texts, as one vector each and one vector per location, or word piece.

    Attributes:
        pooled: (B, D), one vector per image, pooled as the backbone was asked to.
        tokens: (B, N, D), one vector per location, row by row where they fill a grid; (S, L, D) of `Sequences`.
        positions: (N, 2) or (B, N, 2), where each token looks, (x, y) in crop pixels (pixel i spans [i, i+1)); of
            `Sequences` (S, L, 2); of texts (B, N, 1), their numbers.
        grid: (H, W) with H·W = N where the tokens fill a grid, else None.
        of: (S, L) int64 in main memory, which image each token of a packed batch is of, -1 for none; None: not packed.
        grids: (B, 2) int64 in main memory, (H, W) of the images of a packed batch.
        mask: (B, N) bool, of texts: false where a shorter one has ended; None where all tokens are there.
    """

    pooled: Tensor
    tokens: Tensor
    positions: Tensor
    grid: tuple[int, int] | None = None
    of: Tensor | None = None
    grids: Tensor | None = None
    mask: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """The tokens as a map, (B, D, H, W). A view of `tokens`: where those are contiguous, it is channels-last.

        Raises:
            ValueError: if the tokens do not fill a grid (dropped or packed patches).
        """
        if self.of is not None:
            raise ValueError("images of several shapes have no map in common; use .per_image() instead of .dense")
        if self.grid is None:
            count = self.tokens.shape[1]
            raise ValueError(f"these {count} tokens do not fill a grid; use .tokens and .positions instead of .dense")
        return self.tokens.transpose(1, 2).unflatten(2, self.grid)

    def per_image(self) -> list[tuple[Tensor, Tensor, tuple[int, int] | None]]:
        """Of each image its tokens (N, D), their positions (N, 2), and their grid (H, W), None where some are left out.

        Of images of one shape as of packed ones. Tokens that fill a grid are in row-major order.
        """
        if self.of is None or self.grids is None:
            batch = len(self.pooled)
            places = self.positions.expand(batch, -1, -1)
            return [(self.tokens[i], places[i], self.grid) for i in range(batch)]
        of = self.of.flatten()
        order = of.argsort(stable=True)[(of < 0).sum() :].to(self.tokens.device)
        counts = torch.bincount(of[of >= 0], minlength=len(self.grids)).tolist()
        parts = zip(*(x.flatten(0, 1)[order].split(counts) for x in (self.tokens, self.positions)), strict=True)
        grids = [(h, w) if h * w == n else None for (h, w), n in zip(self.grids.tolist(), counts, strict=True)]
        return [(tokens, places, grid) for (tokens, places), grid in zip(parts, grids, strict=True)]
