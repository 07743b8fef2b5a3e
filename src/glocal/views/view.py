"""`View`, a batch of crops that remembers where it came from, and `Batch`, what a method receives."""

from dataclasses import dataclass, field, replace
from typing import Any, Self

import torch
from torch import Tensor

from glocal.features import Sequences


def grid_centers(
    height: int, width: int, crop_height: float, crop_width: float, device=None, dtype=torch.float32
) -> Tensor:
    """Centres of the cells of a uniform `height`×`width` grid over a crop, (H, W, 2) as (x, y) in crop pixels."""
    y = (torch.arange(height, device=device, dtype=dtype) + 0.5) * (crop_height / height)
    x = (torch.arange(width, device=device, dtype=dtype) + 0.5) * (crop_width / width)
    return torch.stack(torch.broadcast_tensors(x[None, :], y[:, None]), dim=-1)


@dataclass  # not frozen: Fabric, which converts what goes into a module, refuses frozen ones
class View:
    """A batch of crops. Points are (x, y); pixel i spans [i, i+1), so its centre is i + .5.

    Attributes:
        pixels: (B, 3, h, w), uint8 as cropped, normalised float after appearance; or `Sequences`, where each crop has a
            shape of its own, in whose pixels points then are.
        affine: (B, 2, 3) float32, the map from crop pixels to source pixels: source = affine @ (x, y, 1).
        kept: (B, N) indices of the patches that are kept, or None for all.
        time: (B,) float32, the moment of its clip that each is of, seconds; None where images are no frames.
    """

    pixels: Any  # Tensor | Sequences, of which most methods know the first only
    affine: Tensor
    kept: Tensor | None = None
    time: Tensor | None = None

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each crop, pixels."""
        if isinstance(self.pixels, Sequences):
            return [
                (rows * self.pixels.patch, columns * self.pixels.patch) for rows, columns in self.pixels.grids.tolist()
            ]
        return [tuple(self.pixels.shape[-2:])] * len(self.pixels)

    def to_source(self, points: Tensor) -> Tensor:
        """Carry crop points (B, ..., 2) home, to source pixels; a first dimension of 1 is shared by the whole batch."""
        batch = self.affine.shape[0]
        points = points.expand(batch, *points.shape[1:])
        flat = points.reshape(batch, -1, 2).to(self.affine.dtype)
        with torch.autocast(flat.device.type, enabled=False):  # methods ask under autocast; bfloat16 is off by a pixel
            home = flat @ self.affine[:, :, :2].transpose(1, 2) + self.affine[:, None, :, 2]
        return home.reshape(points.shape)

    def from_source(self, points: Tensor) -> Tensor:
        """Carry source points (B, ..., 2) into the crop, also those outside of it: the inverse of `to_source`."""
        flat = points.reshape(len(points), -1, 2) - self.affine[:, None, :, 2]
        # `solve` itself would wait for the device, to see whether each map has an inverse
        solved = torch.linalg.solve_ex(self.affine[:, :, :2], flat.transpose(1, 2)).result
        return solved.transpose(1, 2).reshape(points.shape)

    def cell_of(self, points: Tensor, height: int, width: int) -> Tensor:
        """In which cell of a uniform `height`×`width` grid over the crop source points (B, ..., 2) fall.

        Returns:
            (B, ...) int64, row-major, as the points are seen in the crop (mirrored where it is); −1 outside of it.
        """
        h, w = self.pixels.shape[-2:]
        x, y = self.from_source(points).unbind(-1)
        x, y = (x * (width / w)).floor().long(), (y * (height / h)).floor().long()
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
        return torch.where(inside, y * width + x, -1)

    def centers(self, height: int, width: int) -> Tensor:
        """Centres of a uniform grid of cells in source pixels, (B, H, W, 2), flips and rotations included."""
        h, w = self.pixels.shape[-2:]
        return self.to_source(grid_centers(height, width, h, w, device=self.affine.device)[None])

    @property
    def flipped(self) -> Tensor:
        """(B,) bool, True where the crop is a mirror image of its source."""
        (a, b), (c, d) = self.affine[:, :, :2].permute(1, 2, 0)
        return a * d < b * c

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same view on another device."""
        present = {name: value for name, value in vars(self).items() if value is not None}
        return replace(self, **{name: value.to(device, non_blocking=non_blocking) for name, value in present.items()})


@dataclass  # not frozen: see View
class TokenView:
    """A batch of stretches of texts.

    Attributes:
        tokens: (B, L) int64 word pieces.
        mask: (B, L) bool, false where a stretch has ended.
    """

    tokens: Tensor
    mask: Tensor

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same view on another device."""
        return replace(self, **{name: x.to(device, non_blocking=non_blocking) for name, x in vars(self).items()})


@dataclass  # not frozen: see View
class Batch:
    """What a method receives.

    Attributes:
        views: one `View` per entry of the method's recipe, in its order, all of the same B images.
            Of texts, as many `TokenView`.
        index: (B,) int64 sample ids, positions in the source (feature banks need them).
        label: (B,) int64, or None.
        support: labelled support set of the methods that want one, or None.
        target: (B, T) int64, what an `EpochPlan` says of these samples, or None.
        planned: the same, in main memory, for what is decided there.
        key: (B,) int64, in main memory, what random numbers are drawn by; None: the sample ids.
        classes: of a support set, how many different labels those of all processes have; None: not known.
        extra: what else a source knows of these samples, (B, ...) each, by name; of clips, of each moment (B, count,
            ...).
        skipped: (sample id, of a stream its key, and reason) of images that could not be read and were replaced.
        passed: of a stream, the last sample id, and a digest of all up to it.
        shrunk: how many views had more tokens than a sequence has places, and were made smaller.
    """

    views: list[View]
    index: Tensor
    label: Tensor | None = None
    support: "Batch | None" = None
    target: Tensor | None = None
    planned: Tensor | None = None
    key: Tensor | None = None
    classes: int | None = None
    extra: dict[str, Tensor] = field(default_factory=dict)
    skipped: tuple[tuple[Any, str], ...] = ()
    passed: tuple[int, str] | None = None
    shrunk: int = 0

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Self:
        """The same batch on another device."""
        move: Any = lambda x: None if x is None else x.to(device, non_blocking=non_blocking)
        moved = {name: move(getattr(self, name)) for name in ("index", "label", "support", "target")}
        extra = {name: move(value) for name, value in self.extra.items()}
        return replace(self, views=[move(view) for view in self.views], extra=extra, **moved)
