"""What a collection of images offers, wherever it comes from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from glocal.errors import UsageError


class Unreadable(Exception):
    """One image that cannot be decoded; the message says why in a few words. Loaders skip, count and list it."""


class OpenImage(Protocol):
    """An image whose header has been read and whose pixels have not."""

    size: tuple[int, int]
    """(width, height) in source pixels, after EXIF rotation."""

    def decode(self, scale: float = 1.0) -> np.ndarray:
        """RGB pixels (h, w, 3) uint8, at the smallest cheap resolution that is at least `scale` times the full one.

        The array is contiguous and may be written to.

        Raises:
            Unreadable: if the file is truncated or not an image.
        """


@dataclass(frozen=True)
class Groups:
    """Which images belong together in one respect: a patient's, a video's, a country's.

    Attributes:
        names: of the groups.
        of: (N,) int64 positions in `names`, -1 where unknown.
    """

    names: list[str]
    of: np.ndarray


@dataclass(frozen=True)
class Keypoints:
    """Places that each image shows: a person's joints, the corners of a leaf.

    Attributes:
        names: J of them.
        points: (N, J, 3) float32, x and y in pixels of the image, and 1 where the place is known, else 0.
    """

    names: list[str]
    points: np.ndarray

    def at(self, positions: np.ndarray) -> "Keypoints":
        """Those of some images."""
        return Keypoints(self.names, self.points[positions])


class ImageSource(Protocol):
    """A finite, ordered collection of images. Sample i is the same image for the life of the collection."""

    name: str
    classes: list[str] | None = None
    """Class names, when the images have labels."""
    labels: np.ndarray | None = None
    """(N,) int64 positions in `classes`, or None."""
    has_masks: bool = False
    """Whether `mask(i)` gives a segmentation map."""
    mask_classes: list[str] | None = None
    """Names of the mask classes 0, 1, ..., when known."""
    ignore_index: int | None = None
    """The mask class that does not count (void, border), or None."""
    note: str = ""
    """What a person should know about how the collection was read, in a few words, or ''."""
    groups: dict[str, Groups] | None = None
    """By what the images of a group share ("patient", "video", "country"), or None."""
    keypoints: Keypoints | None = None
    """Places in each image, or None."""
    captions: list[str | None] | None = None
    """What is said of each image, None where nothing is; None where nothing is said of any."""

    def __len__(self) -> int: ...

    def key(self, i: int) -> str:
        """What to call sample i in messages and tables: its path relative to the folder, or its number."""

    def open(self, i: int) -> OpenImage:
        """Sample i with its header read.

        Raises:
            Unreadable: if the header is broken.
        """

    def mask(self, i: int) -> np.ndarray:
        """(H, W) uint8 class of each source pixel. Only where `has_masks`."""
        raise UsageError(f"{self.name} has no masks: only folders with images/ and masks/ do")


@dataclass(frozen=True)
class Queries:
    """What is asked of texts.

    Attributes:
        keys: names of the Q queries.
        texts: the queries.
        relevant: for each query the positions of the texts that answer it, perhaps none.
    """

    keys: list[str]
    texts: list[str]
    relevant: list[list[int]]


class TextSource(Protocol):
    """A finite, ordered collection of texts."""

    name: str
    note: str = ""
    classes: None = None
    labels: None = None
    groups: None = None
    queries: Queries | None = None
    """What is asked of them, and which of them answer it, or None."""

    def __len__(self) -> int: ...

    def key(self, i: int) -> str:
        """What to call text i."""

    def text(self, i: int) -> str:
        """Text i. An empty one is not learnt from."""


def path_of(source: ImageSource, i: int) -> Path | None:
    """The file of an image. Asks `source.path_of(i)`, which a collection that is no files leaves out: None."""
    return getattr(source, "path_of", lambda i: None)(i)


def fingerprint(source: ImageSource) -> tuple[str, str] | None:
    """Where the images of a collection come from, and a digest that is another one when any of them changes.

    Asks `source.fingerprint()`, which a collection may leave out: None, its pixels cannot be kept for another run.
    """
    return getattr(source, "fingerprint", lambda: None)()


def sizes(source: ImageSource) -> list[int] | None:
    """Bytes of each file. Asks `source.sizes()`, which a collection that is no files leaves out: None."""
    return getattr(source, "sizes", lambda: None)()


def stamps(source: ImageSource) -> list[list[int]] | None:
    """Bytes and time (ns) of each file, which tell one that has changed; None as for `sizes`."""
    return getattr(source, "stamps", lambda: None)()
