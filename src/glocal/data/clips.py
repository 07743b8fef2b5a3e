"""`clips:PATH`, `clips:FPS:PATH`: frames of videos in the order of time, each with its video and its second.

What is at the path may be films, in folders or not; a folder of frames for each video; a list of frames with the column
`video` and, if you like, `time`; or a folder whose groups.csv has these. FPS, 1 by default, is how many frames a second
are taken of films, and how many a second frames without times were: they are in the order of the last number in their
names.
"""

import hashlib
import math
import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from glocal.data.arrays import ConcatSource
from glocal.data.filelist import FileListSource, Files
from glocal.data.files import existing, is_a, shown, walk
from glocal.data.folder import FolderSource, folder_splits
from glocal.data.source import Groups, ImageSource, fingerprint, sizes, stamps
from glocal.data.subset import Subset
from glocal.data.video import FILMS, VideoSource
from glocal.errors import UsageError

MAX_FPS = 1000.0


class ClipSource(ImageSource):
    """Frames of videos: those of one video lie side by side, in the order of time.

    Attributes:
        time: (N,) float64 when each frame is shown, seconds.
        extra: what else is known of each frame, (N, ...) each, by name, such as the action that leads to the next one.
        groups: by "video", which video each is of.
    """

    time: np.ndarray
    extra: dict[str, np.ndarray]
    groups: dict[str, Groups]

    def clips(self) -> list[range]:
        """The frames of each video."""
        edges = np.flatnonzero(np.diff(self.groups["video"].of)) + 1
        return [range(first, end) for first, end in pairwise([0, *edges.tolist(), len(self)])]


class Videos(Subset, ClipSource):
    """The images of a collection, put in the order of videos and time.

    Args:
        source: the frames.
        video: which video each is of.
        time: (N,) when each is shown, seconds.
        place: what they are called when decoded images are kept.

    Attributes:
        in_order: whether it takes less to decode them in this order than in any other, as it does films.

    Raises:
        UsageError: if a frame has no video, or a video one frame only, or two frames at one time.
    """

    in_order = False

    def __init__(self, source: ImageSource, video: Groups, time: np.ndarray, *, place: str) -> None:
        super().__init__(source, np.lexsort((time, video.of)))
        of, self.time, self.extra = video.of[self.positions], time[self.positions], {}
        self.groups, self._place = {**(self.groups or {}), "video": Groups(video.names, of)}, place
        if (lost := np.flatnonzero(of < 0)).size:
            raise UsageError(f"{self.name}: the frame {self.key(int(lost[0]))} has no video")
        for clip in self.clips():
            name = video.names[of[clip.start]]
            if len(clip) < 2:
                where = self.name if name == "." else f"{self.name}: {name}"
                raise UsageError(f"{where} has one frame, and a video has more: raise --fps of a film, or take it away")
            if (same := np.flatnonzero(np.diff(self.time[clip]) == 0)).size:
                pair = " and ".join(self.key(clip[int(k)]) for k in (same[0], same[0] + 1))
                raise UsageError(f"{self.name}: the frames {pair} of {name} have no order: both are at one time")

    def fingerprint(self) -> tuple[str, str] | None:
        """That of the frames, and their order; None where they have none."""
        found = fingerprint(self.source)
        order = hashlib.sha256(self.positions.tobytes()).hexdigest()
        return found and (f"clips {self._place}", f"{found[1]} {order}")

    def sizes(self) -> list[int] | None:
        """Bytes of each frame's file, if all have one."""
        found = sizes(self.source)
        return found and [found[i] for i in self.positions]

    def stamps(self) -> list[list[int]] | None:
        """Bytes and time of each frame's file, likewise."""
        found = stamps(self.source)
        return found and [found[i] for i in self.positions]


def clips(argument: str, split: str | None = None) -> Videos:
    """See the top of this file; `UsageError` if there are no frames, or none that have an order."""
    fps, path = _read(argument)
    films, skipped = _films(path)
    if films:
        return _of_films(films, path, fps, skipped)
    listed = not path.is_dir()
    source: Files = FileListSource(path) if listed else FolderSource(path, split)
    groups = source.groups or {}
    video = groups.get("video")
    if video is None and listed:
        raise UsageError(f"{path} lacks the column video: its first line is to be like path,video,time")
    if video is None:
        folders = [str(PurePosixPath(file).parent) for file in source.files]
        names = sorted(set(folders))
        source.classes = source.labels = None  # which, if any, were these folders
        video = Groups([shown(name) for name in names], np.searchsorted(names, folders))
    time = _times(groups["time"], source) if "time" in groups else _ranks(source, video) / fps
    source.groups = {name: of for name, of in groups.items() if name != "time"}
    return Videos(source, video, time, place=str(path.resolve()))


def as_clips(data: Any, fps: float | None = None) -> Any:
    """The same data, read as videos: what `open_source` takes in place of a path, or of several."""
    if isinstance(data, list | tuple):
        return [as_clips(part, fps) for part in data]
    if not isinstance(data, str | Path) or not Path(data).exists():
        if isinstance(data, str | Path) and ":" not in str(data):
            existing(Path(data))
        if fps is not None:
            raise UsageError("--fps is for folders, films and lists of frames; leave it out")
        return data
    return f"clips:{data}" if fps is None else f"clips:{fps:g}:{data}"


def joined(parts: Sequence[ClipSource]) -> Videos:
    """The clips of several collections, one after the other; videos of one name in two of them are two."""
    named = len({part.name for part in parts}) > 1
    names = [f"{part.name}/{name}" if named else name for part in parts for name in part.groups["video"].names]
    before = np.cumsum([0, *(len(part.groups["video"].names) for part in parts)])
    of = [part.groups["video"].of + first for part, first in zip(parts, before, strict=False)]
    time = np.concatenate([part.time for part in parts])
    whole = ConcatSource(parts)
    place = "\0".join(part.name for part in parts)
    videos = Videos(whole, Groups(names, np.concatenate(of)), time, place=place)
    known = parts[0].extra.keys() if all(part.extra.keys() == parts[0].extra.keys() for part in parts) else ()
    videos.extra = {name: np.concatenate([part.extra[name] for part in parts]) for name in known}
    return videos


def _splits(argument: str) -> tuple[str, ...]:
    path = _read(argument)[1]
    return tuple(folder_splits(path)) if path.is_dir() and not _films(path)[0] else ()


clips.splits = _splits  # type: ignore[attr-defined]


def _read(argument: str) -> tuple[float, Path]:
    found = re.fullmatch(r"(\d+\.?\d*|\.\d+):(.+)", argument)
    fps, path = (float(found[1]), found[2]) if found else (1.0, argument)
    if not 0 < fps <= MAX_FPS:
        raise UsageError(f"--fps {fps:g}: give frames a second, above 0 and at most {MAX_FPS:g}")
    return fps, existing(Path(path))


def _films(path: Path) -> tuple[list[str], dict[str, str]]:
    """The films at a path, and what looks like one and cannot be read: path → reason."""
    skipped: dict[str, str] = {}
    if path.is_dir():
        return sorted(walk(path, FILMS, skipped)), skipped
    return [str(path)] * is_a(path.name, FILMS), skipped


def _of_films(films: Sequence[str], path: Path, fps: float, skipped: dict[str, str]) -> Videos:
    found: dict[str, VideoSource] = {}
    for film in films:
        name = shown(os.path.relpath(film, path)) if path.is_dir() else path.name
        try:
            found[name] = VideoSource(film, fps=fps)
        except UsageError as error:
            skipped[film] = str(error)
    if not found:
        raise UsageError(f"no film in {path} can be read: {next(iter(skipped.values()))}")
    of, time = (
        np.repeat(np.arange(len(found)), [len(film) for film in found.values()]),
        [f.time for f in found.values()],
    )
    frames = ConcatSource(list(found.values()))
    frames.name = shown(path.name)
    frames.note = f"{len(skipped)} skipped: {'; '.join(skipped.values())}" if skipped else ""
    videos = Videos(frames, Groups(list(found), of), np.concatenate(time), place=str(path.resolve()))
    videos.in_order = True
    return videos


def _times(column: Groups, source: Files) -> np.ndarray:
    """(N,) seconds from the words of a column."""

    def seconds(i: int) -> float:
        if column.of[i] < 0:
            raise UsageError(f"{source.name}: the frame {source.key(i)} has no time: the table has no line for it")
        word = column.names[column.of[i]]
        try:
            if math.isfinite(value := float(word)):
                return value
        except ValueError:
            pass
        raise UsageError(f"{source.name}: the time '{word}' of {source.key(i)} is no number of seconds")

    return np.array([seconds(i) for i in range(len(source))])


def _ranks(source: Files, video: Groups) -> np.ndarray:
    """(N,) the place of each frame in its video, by the last number in its name."""
    numbers = [re.findall(r"\d+", PurePosixPath(file).stem) for file in source.files]
    if [] in numbers:
        lost = source.key(numbers.index([]))
        raise UsageError(
            f"{source.name}: the frame {lost} has no number in its name, hence no order; give a column time"
        )
    number = np.array([int(found[-1][-18:]) for found in numbers])
    rank = np.empty(len(number))
    for k in range(len(video.names)):
        mine = np.flatnonzero(video.of == k)
        rank[mine] = np.unique(number[mine], return_inverse=True)[1]
    return rank
