"""Lists of image files: one path a line (.txt), or path and label (.csv)."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from glocal.data.images import EncodedImage, open_image
from glocal.data.paths import existing, state_of
from glocal.errors import UsageError

_HEADERS = ("path", "file", "filename", "image", "filepath")


class FileListSource:
    """The images that a list names, in its order. Relative paths start from the list's folder.

    Args:
        path: a .txt file with one path a line (empty lines and lines that start with # are skipped), or a .csv file
            with a path and, optionally, a label in each row; a first row that starts with `path`, `file`, `filename`
            or `image` is a header.

    Raises:
        UsageError: if the list is empty, or names a file that is not there, or some rows have a label and others none.
    """

    has_masks = False
    mask_classes: list[str] | None = None
    ignore_index: int | None = None
    note = ""

    def __init__(self, path: str | Path):
        path = existing(Path(path))
        self.path, self.folder, self.name = path, path.parent, path.stem
        rows = _read_csv(path) if path.suffix.lower() == ".csv" else _read_txt(path)
        if not rows:
            raise UsageError(f"{path} names no images: expected one path a line")
        missing = [(line, file) for line, file, _ in rows if not (self.folder / file).is_file()]
        if missing:
            line, file = missing[0]
            raise UsageError(
                f"{path}: {len(missing):,} of {len(rows):,} files are missing, the first in line {line}: {file} "
                f"(relative paths start from {self.folder})"
            )
        self.files = [file for _, file, _ in rows]
        self.classes, self.labels = _labels(path, rows)

    def __len__(self) -> int:
        return len(self.files)

    def key(self, i: int) -> str:
        """The path of image i as the list gives it."""
        return self.files[i]

    def open(self, i: int) -> EncodedImage:
        """Image i with its header read."""
        return open_image(self.folder / self.files[i])

    def fingerprint(self) -> tuple[str, str]:
        """The list, and a digest of its images' names, sizes and times."""
        return str(self.path.resolve()), state_of(self.folder, self.files)

    def mask(self, i: int) -> np.ndarray:
        """Lists have no masks."""
        raise UsageError(f"{self.name} has no masks: only folders with images/ and masks/ do")


def _read_txt(path: Path) -> list[tuple[int, str, str]]:
    lines = enumerate(_text(path).splitlines(), start=1)
    return [(k, line.strip(), "") for k, line in lines if line.strip() and not line.startswith("#")]


def _read_csv(path: Path) -> list[tuple[int, str, str]]:
    reader = csv.reader(_text(path).splitlines())
    rows = [(reader.line_num, row[0].strip(), "".join(row[1:2]).strip()) for row in reader if row and row[0].strip()]
    return rows[1:] if rows and rows[0][1].lower() in _HEADERS else rows


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not a text file in UTF-8") from error


def _labels(path: Path, rows: list[tuple[int, str, str]]) -> tuple[list[str] | None, np.ndarray | None]:
    """Class names in alphabetical order (numbers by value), and their positions."""
    names = [label for _, _, label in rows]
    if not any(names):
        return None, None
    if "" in names:
        raise UsageError(f"{path}: line {rows[names.index('')][0]} has no label, others do")
    unique = set(names)
    classes = sorted(unique, key=int) if all(name.isdecimal() for name in unique) else sorted(unique)
    position = {name: k for k, name in enumerate(classes)}
    return classes, np.array([position[name] for name in names], dtype=np.int64)
