"""What views a method wants, as data."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from glocal.errors import UsageError


@dataclass(frozen=True)
class Crop:
    """One view: a random resized crop and its appearance. Probabilities are per sample.

    Geometry: `size` pixels square, area fraction uniform in `scale`, log-uniform aspect ratio in `ratio`, horizontal
    flip. With `native`, (least, most) pixels, the box has the image's own shape, give or take `ratio`, and is resized
    without squeezing it to the area of a square whose side is uniform between the two. Appearance: colour jitter with
    half-widths `brightness`, `contrast`, `saturation`, `hue` applied with probability `jitter`; grey; Gaussian blur,
    sigma uniform in `sigma` pixels; solarize (values from .5 on inverted).
    """

    size: int
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.2
    hue: float = 0.1
    gray: float = 0.2
    blur: float = 0.0
    sigma: tuple[float, float] = (0.1, 2.0)
    solarize: float = 0.0
    native: tuple[int, int] | None = None

    def but(self, **changes) -> Crop:
        """A copy with some fields changed."""
        return replace(self, **changes)


def blur_at(size: int) -> tuple[float, float]:
    """The papers' range of `Crop.sigma`, .1 to 2 pixels where the large crops have 224, for large crops of `size`."""
    return 0.1 * size / 224, 2 * size / 224


@dataclass(frozen=True)
class Support:
    """Labelled images that come with every batch, equally many of each of some classes (PAWS).

    Attributes:
        views: the views to take of each.
        classes: drawn anew for every batch; all, where there are fewer.
        images: of each class, drawn anew for every batch.
        labelled: how much of each class may be drawn from: a fraction below 1, or from 1 on a number of images.
    """

    views: tuple[Crop, ...]
    classes: int
    images: int
    labelled: float


@dataclass(frozen=True)
class Packing:
    """How images of many shapes become sequences (`glocal.views.packing`).

    Attributes:
        patch: side of a patch, pixels.
        tokens: patches of a sequence; an image that would have more is shrunk.
        drop: share of each image's patches that is left out, drawn anew for each.
    """

    patch: int
    tokens: int
    drop: float = 0.0

    @property
    def room(self) -> int:
        """How many patches an image may be cut into, such that those that are kept fit."""
        return max(1, int(self.tokens / (1 - self.drop)))


@dataclass(frozen=True)
class Span:
    """One view of a text: a stretch of it, from which word pieces are missing.

    Attributes:
        share: length as a share of the text's, uniform in (least, most); a word piece at least.
        deleted: probability with which each word piece is left out.
        chunk: word pieces of a longer text of which the stretch is a part, in one place for all views of the text.
    """

    share: tuple[float, float] = (0.1, 0.5)
    deleted: float = 0.1
    chunk: int = 256

    def cut(self, pieces: np.ndarray, chunk: float, draws: np.ndarray, stay: np.ndarray) -> np.ndarray:
        """The stretch of a text's pieces (L,) that draws from [0, 1) mean: where the chunk lies; length and place.

        Args:
            pieces: (L,), L > 0.
            chunk: where the chunk is.
            draws: (2,) length and place of the stretch in the chunk.
            stay: (chunk,) bool, which places of the stretch are kept; its first piece is where else none would be.
        """
        first = int(chunk * (max(0, len(pieces) - self.chunk) + 1))
        whole = pieces[first : first + self.chunk]
        low, high = self.share
        length = max(1, round((low + (high - low) * draws[0]) * len(whole)))
        start = int(draws[1] * (len(whole) - length + 1))
        stretch = whole[start : start + length]
        kept = stretch[stay[:length]]
        return kept if len(kept) else stretch[:1]


@dataclass(frozen=True)
class Frames:
    """Which moments of a clip the views of a sample are: view v is of moment v modulo `count`.

    Attributes:
        count: moments of a sample, the first of which it is called by.
        stride: frames from one moment to the next. No two samples of an epoch share a stretch of a clip.
        jitter: of all moments but the first, seconds that they may be off either way: a frame is drawn in each epoch.
    """

    count: int
    stride: int = 1
    jitter: float = 0.0

    @property
    def span(self) -> int:
        """Frames from the first moment of a sample to its last, both included."""
        return self.stride * (self.count - 1) + 1


@dataclass(frozen=True)
class Recipe:
    """The views of one sample, in order, and the labelled images that a method wants beside; of a text, its spans.

    With a `packing` all views are `native`, and come as `Sequences`. With `frames` they are of several moments of a
    clip, else of one image.
    """

    views: tuple[Crop, ...]
    support: Support | None = None
    packing: Packing | None = None
    spans: tuple[Span, ...] = ()
    frames: Frames | None = None

    def packed(self, native: tuple[int, int], packing: Packing) -> Recipe:
        """The recipe with photographs in their own shapes, the large crops, its first, as large as `native` says.

        Raises:
            UsageError: if small crops are larger than these.
        """
        large, (least, most) = self.views[0].size, native
        if larger := [crop.size for crop in self.views if crop.size > large]:
            fewer = f"give --small-size {large // 2}"
            raise UsageError(f"small crops of {larger[0]} px beside large ones of {large}: {fewer}")
        share = lambda crop, side: max(packing.patch, round(side * crop.size / large))
        views = tuple(crop.but(native=(share(crop, least), share(crop, most))) for crop in self.views)
        return replace(self, views=views, packing=packing)


def two_views(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> Recipe:
    """The pair of BYOL and VICReg: the first view always blurred, the second seldom, but sometimes solarized."""
    return multi_crop(size, 0, 0, large_scale=scale)


def simclr_views(size: int, scale: tuple[float, float] = (0.08, 1.0)) -> Recipe:
    """The pair of SimCLR: twice as much colour jitter, half of the views blurred, both alike (Chen et al. 2020)."""
    crop = Crop(size, scale=scale, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5, sigma=blur_at(size))
    return Recipe((crop, crop))


def multi_crop(
    large: int,
    n_small: int,
    small: int,
    *,
    large_scale: tuple[float, float] = (0.4, 1.0),
    small_scale: tuple[float, float] = (0.08, 0.4),
) -> Recipe:
    """Two crops of `large` pixels, then `n_small` of `small` pixels, with VICRegL's appearance, alternating.

    Even views: blur always, solarize never. Odd views: blur .1, solarize .2 (Bardes et al. 2022; Grill et al. 2020).
    """
    even = Crop(large, scale=large_scale, blur=1.0, sigma=blur_at(large))
    odd = even.but(blur=0.1, solarize=0.2)
    small_ones = [crop.but(size=small, scale=small_scale) for crop in (even, odd)]
    return Recipe((even, odd, *(small_ones[i % 2] for i in range(n_small))))
