"""`window:LO,HI,FOLDER`: images of more than 8 bits between two values of yours."""

from pathlib import Path

from glocal.data.filelist import FileListSource
from glocal.data.files import existing
from glocal.data.folder import FolderSource, folder_splits
from glocal.errors import UsageError


def window(argument: str, split: str | None = None) -> FolderSource | FileListSource:
    """A folder or a list of files whose 16- and 32-bit grey is black at the first value and white at the second."""
    values, path = _read(argument)
    if path.is_dir():
        return FolderSource(path, split, window=values)
    return FileListSource(path, window=values)


def _read(argument: str) -> tuple[tuple[float, float], Path]:
    try:
        low, high, path = argument.split(",", 2)
        values = float(low), float(high)
        if not path or not values[0] < values[1]:
            raise ValueError
    except ValueError as error:
        raise UsageError(
            f"window:{argument} is not window:LO,HI,FOLDER with LO below HI: window:900,1700,photos/"
        ) from error
    return values, existing(Path(path))


def _splits(argument: str) -> tuple[str, ...]:
    _, path = _read(argument)
    return tuple(folder_splits(path)) if path.is_dir() else ()


window.splits = _splits  # type: ignore[attr-defined]
