"""`video:FILE`: the frames of a film as images, decoded when they are asked for."""

import os
import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from glocal.data.files import MAX_BYTES, existing, shown, sizes_and_times, state_of
from glocal.data.images import DrawnImage
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError

_KINDS = "mp4 m4v mov mkv webm avi mpg mpeg ts mts wmv flv ogv 3gp"
FILMS = frozenset("." + kind for kind in _KINDS.split(" "))
"""Files that count as films, in lower case."""
PATIENCE = 60.0
"""Seconds that looking through a film may take, and a second more for each of its 20 MB; a third of it for a frame."""

_SAFELY = {"format_whitelist": "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,asf,flv,ogg"}
"""No playlists, which may name other files, or hosts."""

_reading = threading.local()  # one film at a time is kept open: its path, process, last frame and the frames to come


class VideoSource(ImageSource):
    """All frames of a film in the order of time; a frame is called by its time, 0:01:02.500.

    Needs PyAV, `pip install glocal[video]`.

    Args:
        path: of the file.
        fps: of all frames, take so many a second; None: all.

    Attributes:
        time: (N,) float64 when each frame is shown, in seconds from the first.

    Raises:
        UsageError: if it is not there, is no film, takes longer than `PATIENCE` to look through, or PyAV is missing.
    """

    def __init__(self, path: str | Path, *, fps: float | None = None) -> None:
        self.path = existing(Path(path))
        self.name = shown(self.path.name)
        self._fps, av = fps, _av()
        given_up = time.monotonic() + PATIENCE + os.path.getsize(self.path) / 20e6
        at, keys = set(), set()
        try:
            with av.open(str(self.path), options=_SAFELY) as film:
                stream = film.streams.video[0]
                self._size = stream.codec_context.width, stream.codec_context.height
                self._unit = Fraction(stream.time_base or 1)
                for packet in film.demux(stream):
                    if packet.pts is not None and not packet.is_discard:
                        at.add(packet.pts)
                        keys.update([packet.pts] if packet.is_keyframe else [])
                    if time.monotonic() > given_up:
                        raise UsageError(f"{path} takes too long to read as a film")
        except UsageError:
            raise
        except (av.FFmpegError, IndexError, OSError, ValueError) as error:
            raise UsageError(f"{path} cannot be read as a film ({type(error).__name__})") from error
        if not at:
            raise UsageError(f"{path} has no frames")
        if 3 * self._size[0] * self._size[1] > MAX_BYTES:
            raise UsageError(f"{path} has frames of {self._size[0]}×{self._size[1]} pixels, too many to decode")
        self._keys, shown_at = np.array(sorted(keys)), np.array(sorted(at))
        seconds = (shown_at - shown_at[0]) * float(self._unit)
        if fps is not None:
            wanted = np.arange(int(seconds[-1] * fps + 1e-6) + 1) / fps
            chosen = np.unique(np.searchsorted(seconds, wanted - 1e-6))
            shown_at, seconds = shown_at[chosen], seconds[chosen]
        self._at, self.time = shown_at.tolist(), seconds

    def __len__(self) -> int:
        return len(self._at)

    def key(self, i: int) -> str:
        """When frame i is shown, hours:minutes:seconds from the first."""
        ms = round(1000 * (self._at[i] - self._at[0]) * self._unit)
        return f"{ms // 3_600_000}:{ms // 60_000 % 60:02d}:{ms // 1000 % 60:02d}.{ms % 1000:03d}"

    def open(self, i: int) -> DrawnImage:
        """Frame i, decoded when its pixels are asked for: on from the last one that was, else from the nearest before
        it that stands alone."""
        return DrawnImage(self._size, lambda: self._decode(i))

    def fingerprint(self) -> tuple[str, str]:
        """The file, and a digest of its name, size and time, and of how many frames a second are taken."""
        found = list(sizes_and_times(self.path.parent, [self.path.name]))
        return str(self.path.resolve()), f"{state_of([self.path.name], found)} {self._fps}"

    def _decode(self, i: int) -> Any:
        av, wanted = _av(), self._at[i]
        given_up = time.monotonic() + PATIENCE / 3
        try:
            for frame in self._frames(wanted):
                if frame.pts == wanted:
                    _reading.last = frame.pts
                    return frame.to_ndarray(format="rgb24")
                if time.monotonic() > given_up:
                    break
        except (av.FFmpegError, OSError, ValueError) as error:
            _close()
            raise Unreadable(f"cannot be decoded: {type(error).__name__}") from error
        _close()
        raise Unreadable("cannot be decoded: the film ends before, or it takes too long")

    def _frames(self, wanted: int) -> Iterator[Any]:
        """The frames of the film until `wanted` has been shown: from where decoding stands, the place that the file
        says, ever earlier ones where that was too late, and at last the beginning."""
        here = str(self.path), os.getpid()  # a forked process has the same file position
        last = _reading.last if getattr(_reading, "of", None) == here else None
        if last is not None and last < wanted and not ((self._keys > last) & (self._keys <= wanted)).any():
            yield from _until(wanted, _reading.frames)
        earlier, two_seconds = 0, max(1, int(2 / self._unit))
        while not earlier or wanted - earlier > self._at[0]:
            self._open_film(here, wanted - earlier)
            yield from _until(wanted, _reading.frames)
            earlier = max(two_seconds, 2 * earlier)
        self._open_film(here, None)
        yield from _reading.frames

    def _open_film(self, here: tuple[str, int], at: int | None) -> None:
        _close()
        _reading.film = _av().open(str(self.path), options=_SAFELY)
        stream = _reading.film.streams.video[0]
        if at is not None:
            _reading.film.seek(at, stream=stream)
        _reading.of, _reading.last, _reading.frames = here, None, _reading.film.decode(stream)


def _until(wanted: int, frames: Iterator[Any]) -> Iterator[Any]:
    for frame in frames:
        yield frame
        if frame.pts is not None and frame.pts > wanted:
            return


def _close() -> None:
    if getattr(_reading, "of", ("", 0))[1] == os.getpid():
        _reading.film.close()
    _reading.of = None


def _av() -> Any:
    try:
        import av
    except ImportError as error:
        raise UsageError("films need PyAV: pip install 'glocal[video]'; or give a folder of frames") from error
    return av
