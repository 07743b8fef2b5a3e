"""Collections whose length nobody knows: what an iterable gives, and folders that images still come into."""

import hashlib
import os
import tarfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glocal.data.arrays import ArraySource
from glocal.data.files import EXTENSIONS, existing, is_a, read_bytes, shown, walk
from glocal.data.images import EncodedImage, RawImage, reason
from glocal.data.source import ImageSource, OpenImage, Unreadable
from glocal.errors import UsageError

KEPT = 64  # items behind the last one: for one that cannot be read the next 32 are tried, then training returns
HELD, ROOM = 1000, 2**27  # of the first items, and the bytes of those that are in memory
TAR = frozenset({".tar"})  # extensions of shards
SETTLED = 2 * 10**9  # ns after which a time is past: no file will come that has an earlier one


class StreamEnded(UsageError):
    """A stream has not so many images."""


class Stream(ImageSource):
    """Images one after the other, to be trained on once; for all else it is a collection of the first, at most 1,000.

    Image i is found by going through those before it, which are not opened; behind the last one it is `StreamEnded`.

    Args:
        images: gives uint8 arrays (H, W, 3), PIL images, bytes of image files, their paths, functions that give such,
            called where the image is needed, or (key, any of these), and the same ones whenever it is iterated, or, a
            function, called anew. An iterator (a generator) gives them `once`, to one process.
        name: what to call the collection in messages.
    """

    note = "the first of a stream"

    def __init__(self, images: Iterable[Any] | Callable[[], Iterable[Any]], *, name: str = "stream"):
        self._images, self.name, self.once = images, name, isinstance(images, Iterator)
        self._hold, self._next, self._process = HELD, 0, os.getpid()
        self._begin()

    def __reduce__(self) -> tuple[Any, ...]:  # a loader worker begins anew
        return partial(Stream, name=self.name), (self._images,)

    def __len__(self) -> int:
        with suppress(StreamEnded):
            while self._next < self._hold:
                self._entry(self._next)
        return min(self._hold, self._next)

    def key(self, i: int) -> str:
        return self._entry(i)[0]

    def open(self, i: int) -> OpenImage:
        image = found() if callable(found := self._entry(i)[1]) else found
        if isinstance(image, Unreadable):
            raise image
        if isinstance(image, bytes | str | Path):
            return EncodedImage(image if isinstance(image, bytes) else read_bytes(Path(image)))
        if isinstance(image, np.ndarray):
            return ArraySource(image[None]).open(0)
        if isinstance(image, Image.Image):
            return RawImage(image)
        kinds = "uint8 arrays (H, W, 3), PIL images, bytes, paths, functions that give such, or (key, any of these)"
        raise UsageError(f"{self.name} gives a {type(image).__name__}; give {kinds}")

    def passed(self, i: int) -> str:
        """A digest of the keys of all images up to i."""
        return self._entry(i)[2]

    def _begin(self) -> None:
        if self.once and (self._next or self._process != os.getpid()):
            raise UsageError(f"{self.name} is an iterator, which one process reads, once: workers=0, or an iterable")
        self._entries, self._kept, self._next, self._process = self._read(), dict[int, Any](), 0, os.getpid()

    def _read(self) -> Iterator[tuple[str, Any, str]]:
        """Key, image, and the digest up to it."""
        digest = ""
        for i, item in enumerate(self._images() if callable(self._images) else self._images):
            own = item if isinstance(item, str | Path) else i
            key, image = item if isinstance(item, tuple) and len(item) == 2 else (own, item)
            digest = hashlib.sha256(f"{digest}\0{shown(str(key))}".encode()).hexdigest()
            yield shown(str(key)), image, digest

    def _entry(self, i: int) -> tuple[str, Any, str]:
        if (i < self._next and i not in self._kept) or self._process != os.getpid():  # a fork shares open files
            self._begin()
        for entry in islice(self._entries, max(0, i + 1 - self._next)):
            self._kept[self._next] = entry
            if self._next < self._hold:
                image, known = entry[1], isinstance(entry[1], np.ndarray | Image.Image)
                size = int(np.prod(image.size)) if known else len(image) if isinstance(image, bytes) else 1
                self._hold = min(self._hold, max(8, ROOM // max(1, size)))
            if self._next - KEPT >= self._hold:
                self._kept.pop(self._next - KEPT, None)
            self._next += 1
        if i >= self._next:
            raise StreamEnded(f"{self.name} has only {self._next:,} images: there is no number {i + 1:,}")
        return self._kept[i]


def folder_stream(argument: str) -> Stream:
    """`stream:PATH`, or `stream:PATH,wait=60`, which ends when nothing new has come for so many seconds."""
    path, _, wait = argument.partition(",wait=")
    folder = existing(Path(path))
    if not folder.is_dir() or not f"{wait}0".isdigit():
        raise UsageError(f"stream:{argument}: give a folder and, if wanted, seconds to wait: stream:photos,wait=60")
    return Stream(partial(_arrivals, folder, int(wait or 0)), name=shown(folder.resolve().name))


def _arrivals(folder: Path, wait: int) -> Iterator[tuple[Any, ...]]:
    """The images in a folder and its tar shards as they came; it looks again until for `wait` seconds there is none."""
    last, since = (-1, ""), time.monotonic()
    while True:
        now, new = time.time_ns(), []
        for path in walk(folder, EXTENSIONS | TAR, {}):
            with suppress(OSError):  # it is gone
                at = os.stat(path).st_ctime_ns, path
                new += [at] if last < at and at[0] <= now - SETTLED else []
        for last in sorted(new):
            path, key = last[1], last[1][len(os.path.join(folder, "")) :]
            yield from _members(path, key) if is_a(path, TAR) else [(key, partial(read_bytes, path))]
            since = time.monotonic()
        if not new and time.monotonic() - since >= wait:
            return
        time.sleep(0 if new else 1)


def _members(shard: str, key: str) -> Iterator[tuple[Any, ...]]:
    """The images in a tar file, in its order."""
    try:
        with tarfile.open(shard, "r:") as tar:
            for found in takewhile(lambda member: member.size >= 0, iter(tar.next, None)):  # else it goes back
                tar.members.clear()  # type: ignore[attr-defined]  # else it remembers all
                if found.isreg() and is_a(found.name, EXTENSIONS) and Path(found.name).name[0] != ".":
                    yield f"{key}/{found.name}", partial(read_bytes, shard, found.offset_data, found.size)
    except Exception as error:  # whatever a damaged one makes of it
        yield key, Unreadable(reason(error))
