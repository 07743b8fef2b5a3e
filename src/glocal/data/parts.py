"""A generated world of objects with known parts, for tests, demonstrations and studies where everything must be known.

An object is a body with five different parts around it. All objects are made of the same six parts; the class is where
each of the five stands and which way the body lies, so neither colour nor texture alone gives it away. Colours are
drawn anew for each object: what makes a part is its shape and its texture.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from glocal import random
from glocal.data import drawing
from glocal.data.images import DrawnImage
from glocal.data.source import ImageSource
from glocal.data.worlds import read_options
from glocal.errors import UsageError

SPLIT_NAMES = ("train", "val", "test")
_EDITION = 1  # to be raised with any change of the pixels, which caches then make anew
_PARTS = {  # number in the mask: shape, texture, radius in object radii
    "body": (drawing.ellipse, drawing.stripes, 0.40),
    "head": (drawing.disc, drawing.dots, 0.26),
    "wheel": (drawing.disc, drawing.rings, 0.26),
    "tail": (drawing.capsule, drawing.chevrons, 0.29),
    "fin": (drawing.triangle, drawing.hatch, 0.33),
    "flower": (drawing.flower, drawing.checks, 0.27),
}
PART_NAMES = tuple(_PARTS)
_INITIALS = "HWTFL"  # of all but the body
_RANGES = {"n": (1, 10**9), "size": (16, 1024), "classes": (2, 12), "difficulty": (0, 1), "nuisance": (0, 1)}

# Which part stands where, clockwise from the top in steps of 45 degrees, and by how many steps the body is turned. Two
# plans differ in at least five of the eight places even when one is mirrored or turned by one step, and in three
# however it is turned.
_PLANS = {
    "A": ("H.TW.LF.", 0),
    "B": ("HFW...LT", 1),
    "C": (".WHLT.F.", 2),
    "D": ("L..HF.TW", 3),
    "E": ("T.H.WFL.", 0),
    "F": (".WHT.L.F", 1),
    "G": ("H.WTF..L", 2),
    "H": ("W.HLFT..", 3),
    "I": (".TH.F.LW", 0),
    "J": ("TF.WH.L.", 1),
    "K": ("FTHWL...", 2),
    "L": ("L.W.HTF.", 3),
}


@dataclass(frozen=True)
class PartsSample:
    """One image and all that is known about it. Points are (x, y) in pixels; pixel i spans [i, i+1)."""

    image: np.ndarray
    """(H, W, 3) uint8."""
    label: int
    mask: np.ndarray
    """(H, W) uint8, the visible part, 1 + its position in `PART_NAMES`, or 0."""
    boxes: np.ndarray
    """(6, 4) float32, x0 y0 x1 y1 around what is visible of each part; 0 where nothing is."""
    keypoints: np.ndarray
    """(6, 2) float32, the centre of each part, also where it is hidden."""
    visible: np.ndarray
    """(6,) bool, whether the pixel at the centre shows the part."""
    object_coordinates: np.ndarray
    """(H, W, 3) float32, part number and the (u, v) of the point of that part that is seen there: the same in all views
    of an object."""
    frames: np.ndarray
    """(6, 2, 3) float64, the map from (u, v) to pixels of each part."""


class PartsWorld(ImageSource):
    """Generated images of objects with parts: a collection like any other (`ImageSource`) that knows its own truth.

    Sample i depends on the options, the split and the seed, not on `n`. Labels go round: i modulo `classes`.

    Args:
        n: number of images.
        size: pixels per side.
        split: "train", "val" or "test": other objects of the same classes.
        classes: number of plans, 2 to 12.
        difficulty: 0 to 1; fainter textures, a busier background, plain shapes behind (up to 6) and in front (up to 2).
        nuisance: 0 to 1; how much position, scale, rotation, mirroring, the joints, light and colour vary. From .5 on
            colours are entirely random; at 0 each part has its own.
        seed: another world of the same kind.
    """

    name, has_masks = "parts", True

    def __init__(
        self,
        n: int = 2000,
        size: int = 96,
        *,
        split: str = "train",
        classes: int = 8,
        difficulty: float = 0.5,
        nuisance: float = 0.5,
        seed: int = 0,
    ):
        given = n, size, classes, difficulty, nuisance
        for (option, (low, high)), value in zip(_RANGES.items(), given, strict=True):
            if not low <= value <= high:
                raise UsageError(f"parts: {option} is {value}, expected {low} to {high}")
        if split not in SPLIT_NAMES:
            raise UsageError(f"parts has no split {split!r}; it has {', '.join(SPLIT_NAMES)}")
        self.n, self.size, self.split, self.seed = n, size, split, seed
        self.difficulty, self.nuisance = difficulty, nuisance
        self._plans = list(_PLANS.values())[:classes]
        self.classes, self.labels = list(_PLANS)[:classes], np.arange(n, dtype=np.int64) % classes
        self.mask_classes = ["background", *PART_NAMES]

    def __len__(self) -> int:
        return self.n

    def key(self, i: int) -> str:
        """The number of sample i."""
        return f"{self.split}/{i:05d}"

    def open(self, i: int) -> DrawnImage:
        """The image of sample i, drawn when it is decoded."""
        if not 0 <= i < self.n:
            raise IndexError(i)
        return DrawnImage((self.size, self.size), lambda: self.sample(i).image)

    def fingerprint(self) -> tuple[str, str]:
        """The options that the images depend on, and the edition of the drawing code."""
        options = (self.size, self.split, len(self._plans), self.difficulty, self.nuisance, self.seed)
        return f"parts {options}", f"{_EDITION}"

    def mask(self, i: int) -> np.ndarray:
        """(H, W) uint8, the part at each pixel of sample i."""
        return self.sample(i).mask

    def sample(self, i: int, view: int = 0) -> PartsSample:
        """Object i and the truth about it.

        View 0 is the image of the collection; others show the same object in another pose, light and place.
        """
        if not 0 <= i < self.n:
            raise IndexError(i)
        split = SPLIT_NAMES.index(self.split)

        def draws(what: str, *shape: int, of_object: bool = False) -> np.ndarray:
            keys = (split, i) if of_object else (split, i, view)
            return random.uniform(self.seed, f"parts.{what}", *keys, n=math.prod(shape)).reshape(shape)

        label = i % len(self._plans)
        frames = self._frames(self._plans[label], draws("sizes", 6, of_object=True), draws("pose", 17))
        canvas = drawing.Canvas(
            drawing.ground(self.size, draws("ground", 5, 25), clutter=0.3 + 0.7 * self.difficulty),
            np.zeros((self.size, self.size), np.uint8),
            np.zeros((self.size, self.size, 2), np.float32),
        )
        self._scatter(canvas, draws("behind", 6, 8)[: round(6 * self.difficulty)], 0.05)
        colors = self._colors(draws("colors", 6, 6, of_object=True))
        for p in (*range(1, 6), 0):  # the body hides the joints
            shape, texture, _ = _PARTS[PART_NAMES[p]]
            drawing.stamp(canvas, frames[p], shape, texture, colors[p], number=p + 1)
        self._scatter(canvas, draws("front", 2, 8)[: round(2 * self.difficulty)], 0.035)
        image = self._light(canvas.color, draws("light", 6), random.derive(self.seed, "parts.noise", split, i, view))
        return _describe_sample(image, label, canvas, frames)

    def correspondences(self, i: int, view_a: int, view_b: int) -> tuple[np.ndarray, np.ndarray]:
        """Pairs of points that show the same point of object i in two of its views.

        Returns:
            points_a, points_b: (M, 2) float64; points_a are the centres of all pixels of view a whose point of the
            object is also visible in view b.
        """
        a, b = self.sample(i, view_a), self.sample(i, view_b)
        y, x = np.nonzero(a.mask)
        part, local = a.mask[y, x], a.object_coordinates[y, x, 1:].astype(np.float64)
        frame = b.frames[part - 1]
        there = np.einsum("mij,mj->mi", frame[:, :, :2], local) + frame[:, :, 2]
        column, row = np.floor(there).astype(int).T
        inside = (there >= 0).all(1) & (there < self.size).all(1)
        seen = inside & (b.mask[np.where(inside, row, 0), np.where(inside, column, 0)] == part)
        return np.stack((x + 0.5, y + 0.5), 1)[seen], there[seen]

    def write_folder(self, out: str | Path, *, test: int | None = None) -> Path:
        """Write this world, and `test` images (None: a quarter of its own), as data that people keep.

        That is out/{train,test}/{images,masks}/CLASS/NUMBER.png and out/classes.json.
        """
        out, names = Path(out), list(_PLANS)
        options = {"classes": len(self._plans), "difficulty": self.difficulty, "nuisance": self.nuisance}
        for split, n in {"train": self.n, "test": max(1, self.n // 4) if test is None else test}.items():
            world = PartsWorld(n, self.size, split=split, seed=self.seed, **options)  # type: ignore[arg-type]
            for i in range(n):
                sample = world.sample(i)
                for kind, pixels in (("images", sample.image), ("masks", sample.mask)):
                    folder = out / split / kind / names[sample.label]
                    folder.mkdir(parents=True, exist_ok=True)
                    Image.fromarray(pixels).save(folder / f"{i:05d}.png")
        (out / "classes.json").write_text(json.dumps({"mask_names": self.mask_classes}) + "\n", encoding="utf-8")
        return out

    def _frames(self, plan: tuple[str, int], sizes: np.ndarray, pose: np.ndarray) -> np.ndarray:
        """(6, 2, 3): where each part is, in pixels. `sizes` (6,) are the object's draws, `pose` (17,) the view's."""
        vary = self.nuisance
        x, y, scale, turn, mirror = pose[:5]
        unit = self.size * (0.44 - 0.08 * vary) * (1 - 0.4 * vary * scale)  # pixels per object radius
        center = self.size * (0.5 + 0.4 * vary * (np.array([x, y]) - 0.5))
        whole = _rotation(np.deg2rad(50) * vary**2 * (2 * turn - 1)) * unit
        if mirror < vary / 2:
            whole = whole @ np.diag([-1.0, 1.0])
        around, turned = plan
        slots = np.array([turned + 2, *(around.index(initial) for initial in _INITIALS)]) * np.pi / 4 - np.pi / 2
        slots = slots + 0.3 * vary * (pose[5:11] - 0.5)
        bend = 0.9 * vary * (pose[11:17] - 0.5)
        frames = np.empty((6, 2, 3))
        for p, name in enumerate(PART_NAMES):
            radius = _PARTS[name][2] * (1 + 0.3 * vary * (sizes[p] - 0.5))
            distance = 0.7 if p else 0.0
            place = distance * np.array([np.cos(slots[p]), np.sin(slots[p])])
            frames[p, :, :2] = whole @ _rotation(slots[p] + bend[p]) * radius
            frames[p, :, 2] = whole @ place + center
        return frames

    def _colors(self, draws: np.ndarray) -> np.ndarray:
        """(6, 2, 3): the two colours of each part. `draws` (6, 6) are the object's."""
        free = min(1.0, 2 * self.nuisance)
        own = np.arange(6) / 6
        contrast = (0.5 - 0.25 * self.difficulty) * (0.8 + 0.4 * draws[:, 2])
        middle = 0.52 + 0.16 * free * (draws[:, 3] - 0.5)
        sign = np.where(free * draws[:, 4] > 0.5, 1, -1)
        chroma = 0.16 + 0.12 * draws[:, 5]
        hue = own + free * draws[:, 0]
        dark = drawing.color(hue, chroma, middle - sign * contrast / 2)
        bright = drawing.color(hue + 0.12 * free * (draws[:, 1] - 0.5), chroma, middle + sign * contrast / 2)
        return np.stack((dark, bright), 1)

    def _scatter(self, canvas: drawing.Canvas, draws: np.ndarray, radius: float) -> None:
        """Plain shapes that are part of nothing, one for each row of `draws` (M, 8)."""
        shapes = (drawing.disc, drawing.triangle, drawing.capsule, drawing.ellipse)
        for x, y, kind, turn, scale, hue, chroma, lightness in draws:
            frame = np.empty((2, 3))
            frame[:, :2] = _rotation(2 * np.pi * turn) * self.size * radius * (0.7 + 0.9 * scale)
            frame[:, 2] = np.array([x, y]) * self.size
            tint = drawing.color(hue, 0.2 * chroma, 0.3 + 0.4 * lightness)
            drawing.stamp(canvas, frame, shapes[int(4 * kind)], drawing.plain, np.stack((tint, tint)), number=0)

    def _light(self, color: np.ndarray, draws: np.ndarray, noise_seed: int) -> np.ndarray:
        """(H, W, 3) uint8 under a lamp: gain, tint, a gradient across the image, and a little sensor noise."""
        vary = self.nuisance
        ramp = np.arange(self.size, dtype=np.float32) / self.size - 0.5
        angle = 2 * np.pi * draws[0]
        slope = 0.6 * vary * draws[1] * (np.cos(angle) * ramp[None, :] + np.sin(angle) * ramp[:, None])
        gain = (1 + 0.4 * vary * (draws[2] - 0.5)) * (1 + 0.2 * vary * (draws[3:6] - 0.5))
        noise = np.random.default_rng(noise_seed).standard_normal(color.shape, dtype=np.float32)
        noise *= np.float32(255 * 0.015)
        noise += color * (1 + slope[..., None].astype(np.float32)) * (255 * gain).astype(np.float32)
        return np.rint(np.clip(noise, 0, 255, out=noise), out=noise).astype(np.uint8)


def parts(argument: str = "", split: str | None = None) -> PartsWorld:
    """The world of `parts` or `parts:key=value,...`, e.g. `parts:n=3000,size=96`."""
    kinds = {"n": int, "size": int, "classes": int, "difficulty": float, "nuisance": float, "seed": int}
    return PartsWorld(**read_options("parts", argument, kinds), split=split or "train")


parts.splits = SPLIT_NAMES  # type: ignore[attr-defined]


def _rotation(angle: float) -> np.ndarray:
    cos, sin = np.cos(angle), np.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _describe_sample(image: np.ndarray, label: int, canvas: drawing.Canvas, frames: np.ndarray) -> PartsSample:
    height, width = canvas.mask.shape
    boxes, keypoints = np.zeros((6, 4), np.float32), frames[:, :, 2].astype(np.float32)
    visible = np.zeros(6, bool)
    for p, (x, y) in enumerate(np.floor(keypoints).astype(int)):
        rows, columns = (np.nonzero((canvas.mask == p + 1).any(axis))[0] for axis in (1, 0))
        if len(rows):
            boxes[p] = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
        visible[p] = 0 <= x < width and 0 <= y < height and canvas.mask[y, x] == p + 1
    coordinates = np.concatenate((canvas.mask[..., None].astype(np.float32), canvas.coordinates), -1)
    return PartsSample(image, label, canvas.mask, boxes, keypoints, visible, coordinates, frames)
