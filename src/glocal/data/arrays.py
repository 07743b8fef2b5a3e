"""Images that are already in memory, and collections put one after the other."""

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from glocal.data.images import RawImage
from glocal.data.source import Groups, ImageSource, Keypoints, OpenImage, fingerprint, path_of, sizes, stamps
from glocal.errors import UsageError


class ArraySource(ImageSource):
    """Images in one array.

    Args:
        images: uint8, numpy (N, H, W, 3) or (N, H, W), or torch (N, 3, H, W), (N, 1, H, W) or (N, H, W).
        labels: (N,) integers from 0, or None.
        classes: their names; numbers if None.
        name: what to call the collection in messages.
    """

    def __init__(self, images: Any, labels: Any = None, *, classes: Sequence[str] | None = None, name: str = "array"):
        channels_first = hasattr(images, "detach")  # torch's habit
        images = np.asarray(images.detach().cpu() if channels_first else images)
        if channels_first and images.ndim == 4:
            images = images.transpose(0, 2, 3, 1)
        if images.dtype != np.uint8 or not (images.ndim == 3 or (images.ndim == 4 and images.shape[-1] in (1, 3))):
            found = f"images of shape {images.shape} and type {images.dtype}"
            raise UsageError(f"{found}: expected uint8, (N, H, W, 3) or (N, H, W)")
        if images.size == 0:
            raise UsageError(f"no images in an array of shape {images.shape}")
        self.images, self.name = images, name
        if labels is not None:
            given, number = np.asarray(labels), len(images)
            whole = given.astype(np.int64)
            if (whole != given).any() or whole.shape != (number,) or whole.min() < 0:
                raise UsageError(f"labels of shape {given.shape} for {number} images: expected one from 0 up each")
            self.labels = whole
            self.classes = list(classes) if classes else [str(k) for k in range(int(whole.max()) + 1)]

    def __len__(self) -> int:
        return len(self.images)

    def key(self, i: int) -> str:
        """The number of image i."""
        return str(i)

    def open(self, i: int) -> RawImage:
        """Image i."""
        return RawImage(self.images[i])


class ConcatSource(ImageSource):
    """Several collections one after the other.

    Labels remain when all parts have the same classes, masks when all have masks of the same classes, keypoints when
    all have those of the same names. Groups of one name are one group, and unknown in parts that lack the column.
    """

    def __init__(self, sources: Sequence[ImageSource]):
        if not sources:
            raise UsageError("no data: give at least one folder, list or array")
        self.sources, first = list(sources), sources[0]
        self._ends = np.cumsum([len(source) for source in sources])
        names = dict.fromkeys(source.name for source in sources)
        self.name, self._named = " + ".join(names), len(names) > 1
        self.note = "; ".join(f"{source.name}: {source.note}" for source in sources if source.note)
        labels = [source.labels for source in sources if source.labels is not None and source.classes == first.classes]
        if len(labels) == len(sources):
            self.labels, self.classes = np.concatenate(labels), first.classes
        columns = dict.fromkeys(column for source in sources for column in source.groups or {})
        self.groups = {column: _joined(sources, column) for column in columns} or None
        captions = [text for source in sources for text in source.captions or [None] * len(source)]
        self.captions = captions if any(captions) else None
        places = [source.keypoints for source in sources if source.keypoints is not None]
        if len(places) == len(sources) and all(each.names == places[0].names for each in places):
            self.keypoints = Keypoints(places[0].names, np.concatenate([each.points for each in places]))
        legends = [(source.has_masks, source.mask_classes, source.ignore_index) for source in sources]
        if all(legend == (True, *legends[0][1:]) for legend in legends):
            self.has_masks, self.mask_classes, self.ignore_index = legends[0]

    def __len__(self) -> int:
        return int(self._ends[-1])

    def key(self, i: int) -> str:
        """The key of the sample in its collection, after the collection's name where these differ."""
        source, k = self._find(i)
        return f"{source.name}/{source.key(k)}" if self._named else source.key(k)

    def open(self, i: int) -> OpenImage:
        """Sample i with its header read."""
        source, k = self._find(i)
        return source.open(k)

    def path_of(self, i: int) -> Path | None:
        """The file of sample i, if it has one."""
        source, k = self._find(i)
        return path_of(source, k)

    def fingerprint(self) -> tuple[str, str] | None:
        """Of all collections, if all have one."""
        known = [found for source in self.sources if (found := fingerprint(source)) is not None]
        if len(known) < len(self.sources):
            return None
        return "\0".join(place for place, _ in known), "\0".join(state for _, state in known)

    def sizes(self) -> list[int] | None:
        """Bytes of each file, if all are files."""
        known = [found for source in self.sources if (found := sizes(source)) is not None]
        return list(chain(*known)) if len(known) == len(self.sources) else None

    def stamps(self) -> list[list[int]] | None:
        """Bytes and time of each file, if all are files."""
        known = [found for source in self.sources if (found := stamps(source)) is not None]
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
