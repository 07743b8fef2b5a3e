"""Segmentation masks: which number, or which colour, is which class."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from glocal.data.files import read_bytes, sizes_and_times, state_of
from glocal.data.images import read_header, reason, strips
from glocal.data.source import Unreadable
from glocal.errors import UsageError

NO_CLASS = 255
"""What a pixel of none of the palette's colours becomes; segmentation does not count it."""

_MOST_COLORS = 255
_GREYS = frozenset(0x01010100 * value + 0xFF for value in range(256))
_BLACK_AND_WHITE = {0x000000FF, 0xFFFFFFFF}


@dataclass(frozen=True)
class Legend:
    """What is known of the classes in some masks."""

    names: list[str] | None = None  # of the classes 0, 1, ...
    ignore_index: int | None = None  # the class that does not count
    palette: tuple[int, ...] | None = None  # 0xRRGGBBAA of each, 0 for all that is transparent; None: class numbers


def read_legend(folders: Sequence[Path]) -> Legend:
    """What the first classes.json in some folders says; docs/evaluation.md has its format. `UsageError` if broken."""
    path = next((folder / "classes.json" for folder in folders if (folder / "classes.json").is_file()), None)
    if path is None:
        return Legend()
    try:
        given = json.loads(path.read_text(encoding="utf-8"))
        given = {"names": given} if isinstance(given, list) else given
        names, ignore = given.get("mask_names", given.get("names")), given.get("ignore_index")
        colors = [_code(*color) for color in given.get("palette", ())]
        if len(set(colors)) < len(colors) or len(colors) > _MOST_COLORS or (names and 0 < len(colors) != len(names)):
            raise ValueError(f"a palette has one colour for each class, all different, at most {_MOST_COLORS}")
        names = None if names is None else [str(name) for name in names]
        return Legend(names, None if ignore is None else int(ignore), tuple(colors) or None)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise UsageError(
            f'{path}: expected ["name", ...] or {{"names": [...], "ignore_index": 0, "palette": [[0, 0, 0], ...]}}; '
            f"{error}"
        ) from error


def with_palette(legend: Legend, root: Path, files: Sequence[str]) -> Legend:
    """The legend with the colours that occur in masks, in the order of their codes, where they hold no class numbers.

    That is, where they have colours other than grey, or nothing but black and white. The classes are called by colour.
    A palette that is known is kept. `files` below `root` are the masks of all splits, in which classes are to be the
    same; `Unreadable` if there are too many colours.
    """
    some = files[:: -(-len(files) // 8)]  # they tell whether all hold colours
    if legend.palette or legend.ignore_index == NO_CLASS or not any(_may_hold_colors(root / file) for file in some):
        return legend
    colors = _colors(root, tuple(files), state_of(files, sizes_and_times(root, files)))
    if len(colors) > _MOST_COLORS:
        raise Unreadable(f"more than {_MOST_COLORS} colours; give those of the classes as the palette of classes.json")
    if colors <= _GREYS and colors != _BLACK_AND_WHITE:
        return legend
    named = legend.names and colors == _BLACK_AND_WHITE and len(legend.names) == 2
    names = legend.names if named else [f"#{code:08x}".removesuffix("ff") for code in sorted(colors)]
    return replace(legend, names=names, palette=tuple(sorted(colors)))


def read_mask(path: Path, palette: tuple[int, ...] | None = None) -> np.ndarray:
    """A segmentation mask, (H, W) uint8 classes.

    Args:
        path: an image; `Unreadable` if it cannot be decoded, or holds something else than classes up to 255.
        palette: colours of the classes, see `Legend`. None: each pixel's grey value, bit, or index in the file's own
            palette is its class.
    """
    image = _load(path)
    mask = np.empty((image.height, image.width), np.uint8)
    colors = np.array(palette or (), np.uint32)
    order = colors.argsort()
    for rows, strip in strips(image):
        if palette is None:
            mask[rows] = _numbers(strip)
        else:
            codes = _codes(strip)
            number = order[np.searchsorted(colors, codes, sorter=order).clip(max=len(colors) - 1)]
            mask[rows] = np.where(colors[number] == codes, number, NO_CLASS)
    return mask


def _load(path: Path) -> Image.Image:
    image = read_header(read_bytes(path))
    try:
        image.load()
    except Exception as error:
        raise Unreadable(reason(error)) from error
    return image


def _numbers(image: Image.Image) -> np.ndarray:
    """(h, w) class numbers of a part of a mask without palette."""
    values = np.asarray(image)
    if image.mode in ("LA", "RGBA") and (values[..., -1] == 255).all():
        values = values[..., :-1]
    if image.mode in ("LA", "RGB", "RGBA") and (values == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2 or image.mode == "F":
        raise Unreadable(f"a mask holds one class number per pixel (grey or palette PNG), this is {image.mode}")
    if values.dtype != np.bool_ and (values.max(initial=0) > 255 or values.min(initial=0) < 0):
        raise Unreadable(f"mask classes go from 0 to 255, this has {values.min()} to {values.max()}")
    return values


def _codes(image: Image.Image) -> np.ndarray:
    """(h, w) uint32 colours of a part of a mask, as in `Legend`."""
    try:
        rgba = np.array(image.convert("RGBA"))
    except ValueError as error:  # 16 bits
        raise Unreadable(f"a mask of colours has 8 bits per channel, this is {image.mode}") from error
    codes = rgba.view(">u4")[..., 0].astype(np.uint32)
    codes[rgba[..., 3] == 0] = 0
    return codes


def _code(red: int, green: int, blue: int, alpha: int = 255) -> int:
    return int.from_bytes(bytes((red, green, blue, alpha)), "big") if alpha else 0


def _may_hold_colors(path: Path) -> bool:
    try:
        image = _load(path)
    except Unreadable:
        return False
    if image.mode == "L":
        return {value for _, value in image.getcolors() or ()} in ({255}, {0, 255})
    return image.mode not in ("1", "P", "F") and not image.mode.startswith("I")


@lru_cache(maxsize=8)  # the splits are opened several times in one evaluation
def _colors(root: Path, files: tuple[str, ...], state: str) -> frozenset[int]:
    """The colours in masks; only so many that they are too many. `state` is that of the files."""
    colors: set[int] = set()
    with ThreadPoolExecutor(8) as pool:
        results = pool.map(_colors_in, (root / file for file in files))
        for found in results:
            colors |= found
            if len(colors) > _MOST_COLORS:
                results.close()  # type: ignore[attr-defined]
    return frozenset(colors)


def _colors_in(path: Path) -> set[int]:
    colors: set[int] = set()
    try:
        for _, strip in strips(_load(path)):
            codes = _codes(strip)
            edges = codes[:, 1:][codes[:, 1:] != codes[:, :-1]]  # masks are flat: few of the pixels are to be sorted
            colors.update(np.unique(np.concatenate((codes[:, 0], edges))).tolist())
            if len(colors) > _MOST_COLORS:
                break
    except Unreadable:  # to be said when it is used
        pass
    return colors
