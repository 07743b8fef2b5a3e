"""Objects with composed names: which of twelve, in which of ten colours, turned which of ten ways; 1,200 names."""

from __future__ import annotations

import numpy as np

from glocal.data import PartsWorld, drawing

THINGS = (
    "crab",
    "lamp",
    "kite",
    "anchor",
    "beetle",
    "windmill",
    "teapot",
    "rocket",
    "cradle",
    "fiddle",
    "plough",
    "sled",
)
COLOURS = ("red", "orange", "yellow", "lime", "green", "teal", "blue", "indigo", "violet", "pink")
WAYS = ("north", "rightward", "east", "seaward", "downhill", "south", "homeward", "west", "upstream", "skyward")
NAMES = [f"a {colour} {thing} that looks {way}" for thing in THINGS for colour in COLOURS for way in WAYS]


class Composed(PartsWorld):
    """The generated world of parts where colour and direction are part of the name: sample i has name i modulo 1,200.

    Args:
        n: images.
        size: pixels per side.
        split: "train" or "test": other objects.
        seed: of the world.
    """

    def __init__(self, n: int, size: int, *, split: str, seed: int) -> None:
        super().__init__(n, size, split=split, classes=len(THINGS), difficulty=0.2, nuisance=0.2, seed=seed)
        things = self._plans
        self._plans = [(*thing, c, w) for thing in things for c in range(10) for w in range(10)]  # type: ignore[misc]
        self.classes, self.labels = NAMES, np.arange(n, dtype=np.int64) % len(NAMES)

    def _frames(self, plan: tuple, sizes: np.ndarray, pose: np.ndarray) -> np.ndarray:
        *thing, self._colour, way = plan
        frames = super()._frames(tuple(thing), sizes, np.concatenate([pose[:4], [1.0], pose[5:]]))  # type: ignore[arg-type]
        angle = 2 * np.pi * way / len(WAYS)  # not mirrored, and turned about the body
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        body = frames[0, :, 2].copy()
        frames[:, :, :2] = turn @ frames[:, :, :2]
        frames[:, :, 2] = (frames[:, :, 2] - body) @ turn.T + body
        return frames

    def _colors(self, draws: np.ndarray) -> np.ndarray:
        hue = (self._colour + 0.4 * (draws[:, 0] - 0.5)) / len(COLOURS)
        chroma, middle = 0.2 + 0.05 * draws[:, 5], 0.55 + 0.1 * (draws[:, 3] - 0.5)
        return np.stack([drawing.color(hue, chroma, middle + away) for away in (-0.17, 0.17)], 1)
