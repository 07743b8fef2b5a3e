"""A generated world of things that do something: short clips, each with a sentence that says what.

A thing (colour and shape, the noun) does one of eight things (the verb). No frame alone tells the verb of its clip:
where a thing is, how large it is and how it is turned are drawn anew for each, and every motion passes through them.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from glocal import random
from glocal.data import drawing
from glocal.data.clips import ClipSource
from glocal.data.images import DrawnImage
from glocal.data.source import Groups
from glocal.data.worlds import read_options, truth
from glocal.errors import UsageError

SHAPES = {"ball": drawing.disc, "arrow": drawing.triangle, "bar": drawing.capsule, "flower": drawing.flower}
COLORS = {"red": (0.9, 0.2, 0.15), "green": (0.2, 0.75, 0.25), "blue": (0.2, 0.35, 0.95), "yellow": (0.95, 0.85, 0.15)}
VERBS = ("slides left", "slides right", "rises", "sinks", "grows", "shrinks", "turns left", "turns right")
NOUNS = tuple(f"{color} {shape}" for color in COLORS for shape in SHAPES)
SPLIT_NAMES = ("train", "test")
_EDITION = 1


@dataclass
class MovingWorld(ClipSource):
    """Clips of `frames` frames each; clip k shows noun k modulo 16, its verb is drawn.

    Args:
        n: number of clips.
        frames: of each.
        size: pixels per side.
        still: each clip is its middle frame, again and again: nothing tells the verb.
        split: "train" or "test": other clips.
        seed: another world of the same kind.
    """

    n: int = 1000
    frames: int = 8
    size: int = 32
    still: bool = False
    split: str = "train"
    seed: int = 0

    name = "moving"

    def __post_init__(self) -> None:
        if self.n < 1 or self.frames < 2 or self.size < 16:
            raise UsageError("moving: n is at least 1, frames at least 2, size at least 16")
        if self.split not in SPLIT_NAMES:
            raise UsageError(f"moving has no split '{self.split}'; it has {', '.join(SPLIT_NAMES)}")
        clips = np.arange(self.n)
        self.noun = clips % len(NOUNS)
        self.verb = (random.uniform(self.seed, f"verb {self.split}", clips, n=1)[:, 0] * len(VERBS)).astype(np.int64)
        self.sentences = [f"a {NOUNS[n]} {VERBS[v]}" for n, v in zip(self.noun, self.verb, strict=True)]
        of = np.repeat(clips, self.frames)
        self.groups = {"video": Groups([f"{self.split}/{k:05d}" for k in clips], of)}
        self.time = np.tile(np.arange(self.frames, dtype=np.float64), self.n)
        self.extra = {}
        self.captions = [self.sentences[k] for k in of]
        self.verbs = [VERBS[self.verb[k]] for k in of]

    def __len__(self) -> int:
        return self.n * self.frames

    def key(self, i: int) -> str:
        """Split, clip and frame of sample i."""
        return f"{self.split}/{i // self.frames:05d}/{i % self.frames:02d}"

    def fingerprint(self) -> tuple[str, str]:
        """The options that the images depend on, and the edition of the drawing code."""
        return f"moving {(self.frames, self.size, self.still, self.split, self.seed)}", f"{_EDITION}"

    def open(self, i: int) -> DrawnImage:
        """Frame i, drawn when it is decoded."""
        if not 0 <= i < len(self):
            raise IndexError(i)
        return DrawnImage((self.size, self.size), lambda: self._draw(i))

    def _draw(self, i: int) -> np.ndarray:
        clip, frame = divmod(i, self.frames)
        # from -1 to 1, around the place, size and turn that are drawn
        t = 0.0 if self.still else 2 * frame / (self.frames - 1) - 1
        draws = random.uniform(self.seed, f"thing {self.split}", clip, n=7)
        place, angle, radius = 0.35 + 0.3 * draws[:2], 2 * np.pi * draws[2], 0.16 + 0.04 * draws[3]
        verb = VERBS[self.verb[clip]]
        place = place + 0.2 * t * np.array({"slides left": (-1, 0), "slides right": (1, 0)}.get(verb, (0, 0)))
        place = place + 0.2 * t * np.array({"rises": (0, -1), "sinks": (0, 1)}.get(verb, (0, 0)))
        radius = radius * 1.6 ** (t * {"grows": 1, "shrinks": -1}.get(verb, 0))
        angle = angle + 1.2 * t * {"turns right": 1, "turns left": -1}.get(verb, 0)
        canvas = drawing.Canvas(
            np.full((self.size, self.size, 3), 0.35 + 0.3 * draws[4:7], np.float32),
            np.zeros((self.size, self.size), np.uint8),
            np.zeros((self.size, self.size, 2), np.float32),
        )
        cos, sin = np.cos(angle), np.sin(angle)
        turn = self.size * radius * np.array([[cos, -sin], [sin, cos]])
        color, shape = NOUNS[self.noun[clip]].split()
        bright = np.array(COLORS[color])
        colors = np.stack([bright, 0.55 * bright])
        at = np.column_stack([turn, self.size * place])
        drawing.stamp(canvas, at, SHAPES[shape], drawing.stripes, colors, number=0)
        return (255 * canvas.color.clip(0, 1)).round().astype(np.uint8)


def moving(argument: str = "", split: str | None = None) -> MovingWorld:
    """The world of `moving` or `moving:key=value,...`, e.g. `moving:n=500,still=true`."""
    kinds: dict[str, Callable] = {"n": int, "frames": int, "size": int, "still": truth, "seed": int}
    return MovingWorld(**read_options("moving", argument, kinds), split=split or "train")


moving.splits = SPLIT_NAMES  # type: ignore[attr-defined]
