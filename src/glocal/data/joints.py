"""Keypoints of images: joints.npy beside a folder's images, or the columns NAME.x and NAME.y of a list."""

import json
from pathlib import Path

import numpy as np

from glocal.data.source import Keypoints
from glocal.errors import UsageError


def read_joints(file: Path, images: int) -> Keypoints:
    """An array (N, J, 2) or (N, J, 3) of a folder's images in the order of their paths, see `Keypoints`.

    Where the third number is left out, what is finite is known. Beside it, joints.json lists the names; without it the
    keypoints are called by their numbers.

    Raises:
        UsageError: if it is no such array, or of another number of images, or the names are of another number.
    """
    try:
        given = np.load(file, allow_pickle=False)
        if given.ndim != 3 or given.shape[2] not in (2, 3) or given.dtype.kind not in "fiu":
            raise ValueError(f"an array {given.shape} of {given.dtype}")
    except (ValueError, OSError, EOFError) as error:
        expected = "expected numbers (images, joints, 3): x, y, and 1 where it is known"
        raise UsageError(f"{file.name} cannot be read ({str(error).splitlines()[0]}); {expected}") from error
    if len(given) != images:
        raise UsageError(f"{file.name} is of {len(given):,} images, and there are {images:,}")
    listed = file.with_suffix(".json")
    try:
        names = [str(name) for name in json.loads(listed.read_text(encoding="utf-8"))] if listed.is_file() else None
    except (ValueError, TypeError, RecursionError) as error:
        raise UsageError(f'{listed.name} is no list ["name", ...] ({error})') from error
    if names is not None and len({*names}) != given.shape[1]:
        raise UsageError(f"{listed.name} has {len({*names})} names for the {given.shape[1]} joints of {file.name}")
    return _known(names or [str(k) for k in range(given.shape[1])], given)


def joints_among(columns: dict[str, list[str]], lines: list[int], path: Path) -> Keypoints | None:
    """What the columns NAME.x and NAME.y of a list say, unknown where they are empty; they leave `columns`.

    `NAME.confidence`, which predictions have, leaves too. `lines` are the rows' numbers, for a `UsageError`.
    """
    names = [name[:-2] for name in columns if name.endswith(".x") and f"{name[:-2]}.y" in columns]
    ends = [name for name in columns if name[-2:] in (".x", ".y") and name[:-2] not in names]
    if names and ends:
        other = f"{ends[0][:-1]}{'y' if ends[0].endswith('x') else 'x'}"
        raise UsageError(f"{path} has a column {ends[0]}, but no {other}: each keypoint needs both")
    points = np.full((len(lines), len(names), 2), np.nan)
    for j, name in enumerate(names):
        columns.pop(f"{name}.confidence", None)
        for axis in range(2):
            column = f"{name}.{'xy'[axis]}"
            for i, cell in enumerate(columns.pop(column)):
                try:
                    points[i, j, axis] = cell or np.nan
                except ValueError as error:
                    raise UsageError(f"{path}: line {lines[i]} has '{cell}' for {column}: no number") from error
    return _known(names, points) if names else None


def _known(names: list[str], given: np.ndarray) -> Keypoints:
    points = given.astype(np.float32)
    known = np.isfinite(points[..., 0]) & np.isfinite(points[..., 1])
    if points.shape[2] == 3:
        known &= points[..., 2] > 0
    return Keypoints(names, np.concatenate([np.nan_to_num(points[..., :2]), known[..., None]], 2).astype(np.float32))
