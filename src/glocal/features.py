"""`Features`: what every backbone returns, whatever its architecture."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Features:
    """A batch of images, or of texts, as one vector each and one vector per location, or word piece.

    Attributes:
        pooled: (B, D), one vector per image, pooled as the backbone was asked to.
        tokens: (B, N, D), one vector per location, in row-major order where they fill a grid.
        positions: (N, 2) or (B, N, 2), where each token looks, (x, y) in crop pixels (pixel i spans [i, i+1)); of texts
            (B, N, 1), their numbers.
        grid: (H, W) with H·W = N where the tokens fill a grid, else None.
        mask: (B, N) bool, of texts: false where a shorter one has ended; None where all tokens are there.
    """

    pooled: Tensor
    tokens: Tensor
    positions: Tensor
    grid: tuple[int, int] | None = None
    mask: Tensor | None = None

    @property
    def dense(self) -> Tensor:
        """The tokens as a map, (B, D, H, W). A view of `tokens`: where those are contiguous, it is channels-last.

        Raises:
            ValueError: if the tokens do not fill a grid (dropped or packed patches).
        """
        if self.grid is None:
            count = self.tokens.shape[1]
            raise ValueError(f"these {count} tokens do not fill a grid; use .tokens and .positions instead of .dense")
        return self.tokens.transpose(1, 2).unflatten(2, self.grid)
