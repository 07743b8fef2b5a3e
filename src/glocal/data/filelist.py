"""Collections of image files; lists of them: one path a line (.txt), or path and label (.csv)."""

import csv
import os
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from glocal.data.files import existing, shown, sizes_and_times, state_of
from glocal.data.images import EncodedImage, Window, open_image
from glocal.data.joints import joints_among
from glocal.data.source import Groups, ImageSource
from glocal.errors import UsageError, did_you_mean

_PATHS = ("path", "file", "filename", "image", "filepath", "image_path")


class Files(ImageSource):
    """Image files below a folder."""

    root: Path  # the folder
    files: list[str]  # relative to it
    window: Window | None = None  # values that become black and white in 16- and 32-bit grey; None: each image's own
    _place: Path  # a folder or a list: which collection it is

    def __len__(self) -> int:
        return len(self.files)

    def key(self, i: int) -> str:
        """The path of image i relative to the folder, with forward slashes, or as a list gives it."""
        return shown(self.files[i])

    def open(self, i: int) -> EncodedImage:
        """Image i with its header read."""
        return open_image(self.root / self.files[i], self.window)

    def path_of(self, i: int) -> Path:
        """The file of image i."""
        return self.root / self.files[i]

    def fingerprint(self) -> tuple[str, str]:
        """The folder or list, and a digest of its images' names, sizes and times, as they were when first asked for."""
        return str(self._place.resolve()), self._state

    def sizes(self) -> list[int]:
        """Bytes of each file, as they were when first asked for."""
        return self._found[:, 0].tolist()

    def stamps(self) -> list[list[int]]:
        """Bytes and time (ns) of each file, likewise."""
        return self._found.tolist()

    @cached_property
    def _found(self) -> np.ndarray:
        """(N, 2) int64 bytes and times: the files are asked once."""
        return np.array(list(sizes_and_times(self.root, self.files)), np.int64).reshape(-1, 2)

    @cached_property
    def _state(self) -> str:
        return state_of(self.files, self._found.tolist(), self.window)


class FileListSource(Files):
    """The images that a list names, in its order. Relative paths start from the list's folder.

    Args:
        path: a .txt file with one path a line (empty lines and lines that start with # are skipped), or a .csv file
            with a path and, optionally, a label in each row. A first row that starts with `path`, `file`, `filename`,
            `image`, `filepath` or `image_path` is a header, under which there may be more: the labels are in the column
            `label` or `class`, else in the second one, unless that is `video` or `time`; captions in `caption`;
            keypoints in NAME.x and NAME.y, as `glocal predict` writes them; every other named column is one of
            `groups`, unknown where empty.
        window: see `Files`.

    Raises:
        UsageError: if the list is empty, or names a file that is not there, or some rows have a label and others none.
    """

    def __init__(self, path: str | Path, *, window: Window | None = None):
        path = existing(Path(path))
        self.root, self._place, self.name, self.window = path.parent, path, shown(path.stem), window
        header, rows = _read_csv(path) if path.suffix.lower() == ".csv" else _read_txt(path)
        if not rows:
            raise UsageError(f"{path} names no images: expected one path a line")
        lines, self.files = [line for line, _ in rows], [cells[0] for _, cells in rows]
        missing = [at for at in zip(lines, self.files, strict=True) if not os.path.isfile(self.root / at[1])]
        if missing:
            line, file = missing[0][0], shown(missing[0][1])[:200]
            raise UsageError(
                f"{path}: {len(missing):,} of {len(rows):,} files are missing, the first in line {line}: {file} "
                f"(relative paths start from {self.root})"
            )
        columns = {name: [cells[k] for _, cells in rows] for k, name in enumerate(header[1:], start=1)}
        by_word = {name.lower(): name for name in columns}
        captions = columns.pop(by_word.get("caption", "caption"), [])
        self.captions = [caption or None for caption in captions] if any(captions) else None
        self.keypoints = joints_among(columns, lines, path)
        named = [by_word[word] for word in ("label", "class") if word in by_word]
        second = [name for name in header[1:2] if name.lower() not in ("video", "time")]
        labels = columns.pop([*named, *second, ""][0], [])
        if any(labels):
            if "" in labels:
                raise UsageError(f"{path}: line {lines[labels.index('')]} has no label, others do")
            self.classes, self.labels = _numbered(labels)
        self.groups = {name: Groups(*_numbered(cells)) for name, cells in columns.items() if name} or None


def read_groups(path: str | Path, keys: Sequence[str]) -> dict[str, Groups]:
    """What a table says of some images: their groups in each of its columns, unknown where it says nothing.

    Its first line names the columns: `image` (or another name of the paths, as in a list), then one or more of groups.

    Args:
        path: a .csv file. It may leave out the first folders of a path where what is left is clear.
        keys: of the images, N.

    Raises:
        UsageError: if it lacks a column, names an image twice, or means two images by one name.
    """
    columns, _ = _said_of(path, keys, "a named column of groups", "image,camera")
    return {name: Groups(*_numbered(cells)) for name, cells in columns.items()}


def read_captions(path: str | Path, keys: Sequence[str]) -> list[str | None]:
    """What a table with the columns `image` and `caption` says of each of N images, None where nothing.

    Raises:
        UsageError: as for `read_groups`, and if it names an image that is not there.
    """
    columns, unknown = _said_of(path, keys, "the column caption", "image,caption")
    if "caption" not in (by_word := {name.lower(): name for name in columns}):
        raise UsageError(f"{path} lacks the column caption: its first line is to be like image,caption")
    if unknown:
        hint = did_you_mean(unknown[0], keys)
        raise UsageError(f"{path} names {len(unknown):,} images that are not there, the first being {unknown[0]}{hint}")
    return [caption or None for caption in columns[by_word["caption"]]]


def rows_of(path: str | Path, *needed: str) -> list[dict[str, str]]:
    """The lines of a table with these columns at least; UsageError if it cannot be read or lacks one."""
    table = csv.DictReader(_text(existing(Path(path))).splitlines(keepends=True))
    if lacking := [name for name in needed if name not in (table.fieldnames or ())]:
        raise UsageError(f"{path} lacks the column {lacking[0]}: its first line is to be like {','.join(needed)}")
    return [{name: shown((value or "").strip()) for name, value in row.items() if name} for row in table]


def _said_of(path: str | Path, keys: Sequence[str], lacking: str, like: str) -> tuple[dict[str, list[str]], list[str]]:
    """The cells (N,) of each column of a table of images, "" where it says nothing, and the unknown images it names."""
    path = existing(Path(path))
    lines = csv.reader(_text(path).splitlines(keepends=True))
    header, *rows = [[cell.strip() for cell in row] for row in lines if any(map(str.strip, row))] or [[""]]
    if header[0].lower() not in _PATHS or len(header) < 2 or not all(header):
        lacks = "the column image" if header[0].lower() not in _PATHS else lacking
        raise UsageError(f"{path} lacks {lacks}: its first line is to be like {like}")
    called: dict[str, list[int]] = {}
    for i, key in enumerate(keys):
        parts = key.split("/")
        for start in range(len(parts)):
            called.setdefault("/".join(parts[start:]), []).append(i)
    called |= {key: [i] for i, key in enumerate(keys)}
    found: dict[int, list[str]] = {}
    for name, *cells in rows:
        at = called.get(shown(name), [])
        if len(at) > 1 or (at and at[0] in found):
            what = f"may be {keys[at[0]]} or {keys[at[1]]}; write more of its path" if len(at) > 1 else "is there twice"
            raise UsageError(f"{path}: {shown(name)} {what}")
        found |= {i: (cells + [""] * len(header))[: len(header) - 1] for i in at}
    empty = [""] * len(header)
    columns = {name: [found.get(i, empty)[k] for i in range(len(keys))] for k, name in enumerate(header[1:])}
    return columns, [shown(name) for name, *_ in rows if shown(name) not in called]


def _read_txt(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, which is ours, and (line, cells) of each row."""
    lines = enumerate(_text(path).splitlines(), start=1)
    return ["path"], [(k, [line.strip()]) for k, line in lines if line.strip() and not line.startswith("#")]


def _read_csv(path: Path) -> tuple[list[str], list[tuple[int, list[str]]]]:
    """The header, the file's own or ours, and (line, cells) of each row, as many cells as the header has."""
    reader = csv.reader(_text(path).splitlines(keepends=True))
    rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row and row[0].strip()]
    header = rows.pop(0)[1] if rows and rows[0][1][0].lower() in _PATHS else ["path", "label"]
    return header, [(line, (cells + [""] * len(header))[: len(header)]) for line, cells in rows]


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")  # names may be any bytes
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}") from error
    if "\0" in text:
        raise UsageError(f"{path} is not a text file in UTF-8")
    return text


def _numbered(names: list[str]) -> tuple[list[str], np.ndarray]:
    """The different names in alphabetical order (numbers by value), and the position of each there, -1 of ''."""
    unique = {*names} - {""}
    ordered = sorted(unique, key=int) if all(name.isdecimal() for name in unique) else sorted(unique)
    position = {name: k for k, name in enumerate(ordered)}
    return [shown(name) for name in ordered], np.array([position.get(name, -1) for name in names], dtype=np.int64)
