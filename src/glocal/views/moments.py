"""Which frames the views of a sample are of: moments of a clip, a pure function of (seed, epoch, sample)."""

from dataclasses import dataclass, field

import numpy as np

from glocal import random
from glocal.data.clips import ClipSource
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.views.recipe import Frames


@dataclass
class Moments:
    """The frames of each sample of a collection of clips.

    Args:
        source: the clips; `UsageError` if it is another collection, or no clip is long enough for a sample.
        frames: what a sample is.
        seed: of what is drawn.

    Attributes:
        samples: (N,) the frames that samples are called by.
        note: how many videos are too short for a sample, "" if none is.
        time, extra: of all frames, see `ClipSource`.
    """

    source: ImageSource
    frames: Frames
    seed: int
    samples: np.ndarray = field(init=False)
    note: str = field(init=False)

    def __post_init__(self) -> None:
        source, span = self.source, self.frames.span
        if not isinstance(source, ClipSource):
            raise UsageError(f"{source.name} has no clips: give --fps, to read its folders or films as videos")
        clips = source.clips()
        starts = [np.arange(clip.start, clip.stop - span + 1, span) for clip in clips]
        self.samples, self._clip = np.concatenate(starts), source.groups["video"].of
        self.time, self.extra = source.time, source.extra
        short = sum(not len(each) for each in starts)
        self.note = (
            f"{short} of {len(clips)} videos have fewer than the {span} frames of a sample: left out" if short else ""
        )
        if not len(self.samples):
            longest = max(map(len, clips))
            raise UsageError(f"{source.name}: no video has the {span} frames of a sample, the longest has {longest}")

    def of(self, sample: int, epoch: int, key: int) -> np.ndarray:
        """(count,) the frames of a sample, drawn by its key (see `Batch`)."""
        frames = sample + self.frames.stride * np.arange(self.frames.count)
        if self.frames.jitter:
            draws = random.uniform(self.seed, "moment", epoch, key, n=self.frames.count)
            for k in range(1, self.frames.count):
                first, end = self._near(int(frames[k]))
                frames[k] = first + int(draws[k] * (end - first))
        return frames

    def parts(self, sample: int, epoch: int, key: int, number: int) -> dict[int, list[int]]:
        """Of each frame of a sample, which of its `number` views are of it: it is decoded once."""
        parts: dict[int, list[int]] = {}
        frames = self.of(sample, epoch, key).tolist()
        for view in range(number):
            parts.setdefault(frames[view % len(frames)], []).append(view)
        return parts

    def _near(self, frame: int) -> tuple[int, int]:
        """The frames of its clip, from one to before another, that are at most `jitter` seconds away."""
        clip = slice(*np.searchsorted(self._clip, [self._clip[frame], self._clip[frame] + 1]))
        away = self.frames.jitter + 1e-6
        around = np.searchsorted(self.time[clip], [self.time[frame] - away, self.time[frame] + away])
        return clip.start + int(around[0]), clip.start + int(around[1])
