"""Write beside the destination, then rename: a half-written export never carries the final name."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from glocal.errors import UsageError
from glocal.run import said_where_full

MARK = "glocal"
"""How an earlier export is recognised: ONNX's producer, a key of config.json, of an archive or of Parquet metadata."""


@contextmanager
def staged_folder(out: Path) -> Iterator[Path]:
    """A new empty folder to fill; it becomes `out`, free or an earlier export, when the block ends without an error."""
    out = out.expanduser().absolute()
    if out.exists() and not out.is_dir():
        raise UsageError(f"{out} is a file; give the name of a new folder")
    if out.is_dir() and any(out.iterdir()) and not _is_exported_folder(out):
        raise UsageError(f"{out} holds other files; give a new or empty folder (only an earlier export is replaced)")
    with _sibling(out) as partial:
        new = partial / out.name
        new.mkdir()
        yield new
        if out.exists():
            out.rename(partial / "previous")
        new.rename(out)


@contextmanager
def staged_file(out: Path, suffix: str) -> Iterator[Path]:
    """A path to write to, named like `out`; it (and what was written beside it) moves to `out` when the block succeeds.

    A `UsageError` if `out` does not end in `suffix` (".onnx"), or exists and is not an earlier export.
    """
    out = out.expanduser().absolute()
    if out.suffix.lower() != suffix:
        raise UsageError(f"{out} does not end in {suffix}; name the file to write, e.g. {out.with_suffix(suffix)}")
    if out.is_dir() or (out.exists() and not _is_exported_file(out)):
        raise UsageError(f"{out} exists and was not exported by glocal; give another name or remove it")
    with _sibling(out) as partial:
        yield partial / out.name
        # An ONNX file over 2 GB keeps its weights in a second file: move that first, so the model is never without it.
        for written in sorted(partial.iterdir(), key=lambda path: path.name == out.name):
            written.replace(out.parent / written.name)


@contextmanager
def _sibling(out: Path) -> Iterator[Path]:
    """A temporary folder on the same disk as `out`, hence one rename away."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-", dir=out.parent))
    except OSError as error:
        raise UsageError(f"cannot write to {out.parent}: {error.strerror}") from error
    try:
        with said_where_full(partial):
            yield partial
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _is_exported_folder(folder: Path) -> bool:
    if (folder / "encoder.safetensors").exists():
        return {path.name for path in folder.iterdir()} <= {"encoder.safetensors", "encoder.json"}  # never a whole run
    try:
        return MARK in json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False


def _is_exported_file(file: Path) -> bool:
    if zipfile.is_zipfile(file):  # .pt2 and .npz
        with suppress(OSError, ValueError, zipfile.BadZipFile), zipfile.ZipFile(file) as archive:
            return any(Path(name).stem == MARK for name in archive.namelist())
        return False
    with file.open("rb") as stream:
        if file.suffix.lower() != ".parquet":
            return MARK.encode() in stream.read(64)  # an ONNX file starts with its producer's name
        try:  # a Parquet file ends with its metadata, the metadata's length and "PAR1"
            stream.seek(-8, 2)
            length = int.from_bytes(stream.read(4), "little")
            stream.seek(-8 - length, 2)
        except OSError:
            return False
        return MARK.encode() in stream.read(length)
