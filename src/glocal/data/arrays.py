"""Images that are already in memory, and collections put one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import numpy as np

from glocal.data.images import RawImage
from glocal.data.inventory import sizes
from glocal.data.source import Groups, ImageSource, OpenImage, fingerprint
from glocal.errors import UsageError


class ArraySource:
    """Images in one array.

    Args:
        images: uint8, numpy (N, H, W, 3) or (N, H, W), or torch (N, 3, H, W), (N, 1, H, W) or (N, H, W).
        labels: (N,) integers from 0, or None.
        classes: their names; numbers if None.
        name: what to call the collection in messages.
    """

    has_masks = False
    mask_classes: list[str] | None = None
    ignore_index: int | None = None
    note = ""
    groups = captions = None

    def __init__(self, images: Any, labels: Any = None, *, classes: Sequence[str] | None = None, name: str = "array"):
        channels_first = hasattr(images, "detach")  # torch's habit
        images = np.asarray(images.detach().cpu() if channels_first else images)
        if channels_first and images.ndim == 4:
            images = images.transpose(0, 2, 3, 1)
        if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))):
            raise UsageError(
                f"images of shape {images.shape} and type {images.dtype}: expected uint8, (N, H, W, 3) or (N, H, W)"
            )
        if images.size == 0:
            raise UsageError(f"no images in an array of shape {images.shape}")
        self.images, self.name = images, name
        self.labels: np.ndarray | None = None
        self.classes: list[str] | None = None
        if labels is not None:
            self.labels = np.asarray(labels).astype(np.int64)
            if (
                (self.labels != np.asarray(labels)).any()
                or self.labels.shape != (len(images),)
                or self.labels.min() < 0
            ):
                raise UsageError(
                    f"labels of shape {self.labels.shape} for {len(images)} images: expected one from 0 up each"
                )
            self.classes = list(classes) if classes else [str(k) for k in range(int(self.labels.max()) + 1)]

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        """The number of image i."""
        return str(i)

    def open(self, i: int) -> RawImage:
        """Image i."""
        return RawImage(self.images[i])

    def mask(self, i: int) -> np.ndarray:
        """Arrays have no masks."""
        raise UsageError(f"{self.name} has no masks")


class ConcatSource:
    """Several collections one after the other.

    Labels remain when all parts have the same classes, masks when all have masks of the same classes. Groups of one
    name are one group, and unknown in parts that lack the column.
    """

    def __init__(self, sources: Sequence[ImageSource]):
        if not sources:
            raise UsageError("no data: give at least one folder, list or array")
        self.sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self.sources])
        first = self.sources[0]
        self.name = " + ".join(source.name for source in self.sources)
        self.note = "; ".join(f"{source.name}: {source.note}" for source in self.sources if source.note)
        labels = [
            source.labels for source in self.sources if source.labels is not None and source.classes == first.classes
        ]
        labelled = len(labels) == len(self.sources)
        self.labels = np.concatenate(labels) if labelled else None
        self.classes = first.classes if labelled else None
        columns = dict.fromkeys(column for source in self.sources for column in source.groups or {})
        self.groups = {column: _joined(self.sources, column) for column in columns} or None
        captions = [text for source in self.sources for text in source.captions or [None] * len(source)]
        self.captions = captions if any(captions) else None
        legends = [(source.has_masks, source.mask_classes, source.ignore_index) for source in self.sources]
        self.has_masks = all(legend == (True, first.mask_classes, first.ignore_index) for legend in legends)
        self.mask_classes = first.mask_classes if self.has_masks else None
        self.ignore_index = first.ignore_index if self.has_masks else None

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, i: int) -> str:
        """The key of the sample in its collection, after the collection's name."""
        source, k = self._find(i)
        return f"{source.name}/{source.key(k)}"

    def open(self, i: int) -> OpenImage:
        """Sample i with its header read."""
        source, k = self._find(i)
        return source.open(k)

    def fingerprint(self) -> tuple[str, str] | None:
        """Of all collections, if all have one."""
        found = [fingerprint(source) for source in self.sources]
        known = [one for one in found if one is not None]
        if len(known) < len(found):
            return None
        return "\0".join(place for place, _ in known), "\0".join(state for _, state in known)

    def sizes(self) -> list[int] | None:
        """Bytes of each file, if all are files."""
        known = [found for source in self.sources if (found := sizes(source)) is not None]
        return list(chain(*known)) if len(known) == len(self.sources) else None

    def mask(self, i: int) -> np.ndarray:
        """(H, W) uint8 class of each pixel of sample i."""
        if not self.has_masks:
            raise UsageError(f"{self.name} has no masks of one kind: evaluate the collections one by one")
        source, k = self._find(i)
        return source.mask(k)

    def _find(self, i: int) -> tuple[ImageSource, int]:
        if not 0 <= i < len(self):
            raise IndexError(i)
        part = int(np.searchsorted(self._ends, i, side="right"))
        return self.sources[part], i - (int(self._ends[part - 1]) if part else 0)


def _joined(sources: Sequence[ImageSource], column: str) -> Groups:
    """The groups of all images, numbered anew."""
    parts = [(source.groups or {}).get(column, Groups([], np.full(len(source), -1))) for source in sources]
    number = {name: k for k, name in enumerate(dict.fromkeys(name for part in parts for name in part.names))}
    of = [np.array([*(number[name] for name in part.names), -1])[part.of] for part in parts]  # -1 finds the last
    return Groups(list(number), np.concatenate(of))
