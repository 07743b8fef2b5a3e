"""`dots`: clips of a dot that moves over noise, in which everything is known (Sobal et al. 2022, arXiv:2211.10831).

The dot is a Gaussian; each action moves it by up to 4 pixels, and it stays two standard deviations inside the image.
The noise is new in each frame, or the same throughout a clip: most of what there is to see then does not change.
"""

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np

from glocal import random
from glocal.data import drawing
from glocal.data.clips import ClipSource
from glocal.data.images import DrawnImage
from glocal.data.parts import SPLIT_NAMES
from glocal.data.source import Groups, Keypoints
from glocal.data.worlds import read_options
from glocal.errors import UsageError, did_you_mean

NOISES = "none", "changing", "fixed", "structured_changing", "structured_fixed"
SIGMA = 1.3  # of the dot, pixels
STEP = 4.0  # the longest action, pixels
CONCENTRATION = 0.2  # of the directions of a clip's actions about its own one


class DotsWorld(ClipSource):
    """Clips of one dot, `frames` each. `extra["action"]` (N, 2) is what leads to the next frame, in steps of 4 pixels,
    0 at a clip's end; `keypoints` where the dot is.

    Clip c depends on the options, the split and the seed, not on `n`.

    Args:
        n: number of clips.
        frames: of each.
        size: pixels per side.
        noise: "none"; uniform in each pixel, "changing" in each frame or "fixed" in a clip; or a smooth background,
            "structured_changing" or "structured_fixed".
        level: the noise's greatest value, as a share of the dot's.
        split: "train", "val" or "test".
        seed: another world of the same kind.
    """

    def __init__(
        self,
        n: int = 1000,
        frames: int = 17,
        size: int = 28,
        *,
        noise: str = "changing",
        level: float = 1.0,
        split: str = "train",
        seed: int = 0,
    ) -> None:
        if noise not in NOISES:
            raise UsageError(f"dots: no noise {noise!r}{did_you_mean(noise, NOISES)}; there are {', '.join(NOISES)}")
        for option, value, least, most in (("n", n, 1, 10**7), ("frames", frames, 2, 1000), ("size", size, 12, 512)):
            if not least <= value <= most:
                raise UsageError(f"dots: {option} is {value}, expected {least} to {most}")
        if not 0 <= level <= 10:
            raise UsageError(f"dots: level is {level:g}, expected 0 to 10")
        self.name, self.frames, self.size, self.noise, self.seed = f"dots-{noise}", frames, size, noise, seed
        self.level, self.split = level if noise != "none" else 0.0, SPLIT_NAMES.index(split)
        self.place, action = np.empty((n, frames, 2)), np.zeros((n, frames, 2), np.float32)
        for clip in range(n):
            self.place[clip], action[clip, :-1] = self._walk(clip)
        self.groups = {"video": Groups([f"{clip:05d}" for clip in range(n)], np.repeat(np.arange(n), frames))}
        self.time, self.extra = np.tile(np.arange(frames, dtype=float), n), {"action": action.reshape(-1, 2)}
        known = np.ones((n * frames, 1, 3), np.float32)
        known[:, 0, :2] = self.place.reshape(-1, 2) + 0.5  # pixel 0 spans [0, 1)
        self.keypoints = Keypoints(["dot"], known)

    def __len__(self) -> int:
        return len(self.time)

    def key(self, i: int) -> str:
        """Clip and frame."""
        return f"{SPLIT_NAMES[self.split]}/{i // self.frames:05d}/{i % self.frames:02d}"

    def open(self, i: int) -> DrawnImage:
        """Frame i, drawn when it is decoded."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return DrawnImage((self.size, self.size), lambda: self.draw(i))

    def draw(self, i: int, *, background: int | None = None) -> np.ndarray:
        """(size, size, 3) uint8: frame i, if you like with the noise of another one; black is 0, white all that can be.

        Of a uniform noise of level 1 the dot at its brightest is half of what can be.
        """
        x, y = (np.exp(-((np.arange(self.size) - at) ** 2) / (2 * SIGMA**2)) for at in self.place.reshape(-1, 2)[i])
        clip, frame = divmod(i if background is None else background, self.frames)
        noises = 1 if self.noise.endswith("fixed") else self.frames
        of = self.seed, self.split, clip, noises, self.size, self.noise.startswith("structured")
        noise = self.level * _noise(*of)[frame % noises] if self.level else 0.0
        pixels = np.rint((y[:, None] * x + noise) * (255 / (1 + self.level))).astype(np.uint8)
        return np.repeat(pixels[..., None], 3, axis=2)

    def _walk(self, clip: int) -> tuple[np.ndarray, np.ndarray]:
        """Where the dot is, (frames, 2), (x, y) from the centre of the first pixel; its actions, in steps of `STEP`."""
        draw = np.random.default_rng(random.derive(self.seed, "dots.walk", self.split, clip))
        low, high = 2 * SIGMA, self.size - 1 - 2 * SIGMA
        angle = draw.vonmises(draw.uniform(-math.pi, math.pi), CONCENTRATION, self.frames - 1)
        action = np.stack([np.cos(angle), np.sin(angle)], 1) * draw.uniform(0, 1, (self.frames - 1, 1))
        place = [draw.uniform(low, high, 2)]
        for step in action:
            place.append(np.clip(place[-1] + STEP * step, low, high))
        return np.array(place), action


@lru_cache(maxsize=4)  # the frames of a clip are mostly asked for one after the other
def _noise(seed: int, split: int, clip: int, number: int, size: int, structured: bool) -> np.ndarray:
    """(number, size, size) in [0, 1], the noises of a clip."""
    draw = np.random.default_rng(random.derive(seed, "dots.noise", split, clip))
    if not structured:
        return draw.random((number, size, size), np.float32)
    grounds = [drawing.ground(size, draw.random((5, 25)), clutter=1.0) for _ in range(number)]
    return np.stack(grounds).mean(3).clip(0, 1)


def dots(argument: str = "", split: str | None = None) -> DotsWorld:
    """The world of `dots` or `dots:key=value,...`, e.g. `dots:noise=fixed,n=2000`."""
    kinds: dict[str, Callable] = {"n": int, "frames": int, "size": int, "noise": str, "level": float, "seed": int}
    return DotsWorld(**read_options("dots", argument, kinds), split=split or "train")


dots.splits = SPLIT_NAMES  # type: ignore[attr-defined]
