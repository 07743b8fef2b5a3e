"""Files and their bytes, regular ones only, so that no pipe blocks; names that can always be written; what is there."""

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from glocal.data.source import Unreadable
from glocal.errors import UsageError, did_you_mean

_KINDS = "jpg jpeg jpe jfif mpo png webp gif bmp tif tiff ppm pgm pbm pnm jp2 avif"
EXTENSIONS = frozenset("." + kind for kind in _KINDS.split(" "))
"""Files that count as images, in lower case."""

_OTHERS = "heic heif jxl psd dng nef cr2 cr3 arw raf orf rw2 dcm svs"
OTHER_EXTENSIONS = frozenset("." + kind for kind in _OTHERS.split(" "))
"""Files that hold images, too, which cannot be read here."""

MASK_EXTENSIONS = EXTENSIONS - {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}  # JPEG does not keep class numbers

MAX_BYTES = 2**30
"""The most memory that reading one image takes, its file included (1 GiB)."""

_NOT_CONTENT = ("__MACOSX", "@eaDir")  # what archives and network drives leave behind
_NOT_REGULAR = "not a regular file"
OTHER_FORMAT = "of a format that is not read"


def existing(path: Path) -> Path:
    """`path` itself; `UsageError` if nothing is there, naming its first missing part and the nearest name beside it."""
    if os.path.exists(path):
        return path
    missing = path
    while not os.path.exists(missing.parent):
        missing = missing.parent
    try:
        siblings = os.listdir(missing.parent)
    except OSError:  # a file, or closed to us
        siblings = []
    where = "" if missing == path else f": {missing} does not exist"
    raise UsageError(f"no data at {path}{where}{did_you_mean(missing.name, siblings)}")


def shown(name: str) -> str:
    """A file's name as valid text of one line: bytes that are no UTF-8, and control characters, as `\\xff`."""
    try:
        written = os.fsencode(name)
    except UnicodeEncodeError:  # of a table, where file names are not UTF-8
        written = name.encode("utf-8", "surrogateescape")
    text = written.decode("utf-8", "backslashreplace")
    return re.sub("[\x00-\x1f\x7f-\x9f]", lambda found: f"\\x{ord(found[0]):02x}", text)


def sizes_and_times(folder: Path, files: Iterable[str]) -> Iterator[tuple[int, int]]:
    """Bytes and time (ns) of each of some files below a folder; (-1, -1) where there is none."""
    for file in files:
        try:
            found = os.stat(os.path.join(folder, file))
            yield found.st_size, found.st_mtime_ns
        except OSError:
            yield -1, -1


def state_of(files: Iterable[str], found: Iterable[tuple[int, int]], window: tuple[float, float] | None = None) -> str:
    """A digest of the names of files, of their `sizes_and_times`, and of how they are read."""
    digest = hashlib.sha256(repr(window).encode())
    for file, (size, time) in zip(files, found, strict=True):
        digest.update(f"{file}\0{size}\0{time}\0".encode(errors="surrogateescape"))
    return digest.hexdigest()


def visible(
    folder: str | Path, skipped: dict[str, str], seen: set[tuple[int, int]] | None = None
) -> list[tuple[os.DirEntry[str], str]]:
    """What a folder holds, by name, each with its kind: "folder", "file" or why it is neither. Hidden names stay out.

    The folder joins `skipped`, path → reason, where it cannot be read, and `seen`, which count as empty: device, inode.
    """
    try:
        found = os.stat(folder)
        if seen is not None:
            if (found.st_dev, found.st_ino) in seen:
                return []
            seen.add((found.st_dev, found.st_ino))
        with os.scandir(folder) as content:
            entries = sorted(content, key=lambda entry: entry.name)
    except OSError as error:
        skipped[str(folder)] = error.strerror or str(error)
        return []
    return [(e, _kind(e)) for e in entries if not e.name.startswith(".") and e.name not in _NOT_CONTENT]


def walk(folder: str | Path, extensions: frozenset[str], skipped: dict[str, str]) -> Iterator[str]:
    """Paths of the regular files below a folder. Links are followed; each folder comes once, by its own path first.

    Folders of masks (see `mask_folder`) inside stay out; what cannot be read, or is an image of another format, joins
    `skipped`, path → reason.
    """
    seen: set[tuple[int, int]] = set()
    folders, linked = [str(folder)], list[str]()
    while folders or linked:
        here = folders.pop() if folders else linked.pop(0)
        entries = visible(here, skipped, seen)
        masks = mask_folder(here) if any(entry.name == "images" for entry, _ in entries) else None
        for entry, kind in entries:
            if kind == "folder" and entry.path != masks:
                (linked if entry.is_symlink() else folders).append(entry.path)
            elif kind == "file" and is_a(entry.name, extensions):
                yield entry.path
            elif kind != "folder" and is_a(entry.name, extensions):
                skipped[entry.path] = kind
            elif extensions >= EXTENSIONS and kind == "file" and is_a(entry.name, OTHER_EXTENSIONS):
                skipped[entry.path] = OTHER_FORMAT


def mask_folder(folder: str | Path) -> str | None:
    """The folder beside `images` with its masks: `masks`, or `labels` if files in both have equal names."""
    images, masks, labels = (os.path.join(folder, name) for name in ("images", "masks", "labels"))
    if not os.path.isdir(images) or os.path.isdir(masks):
        return masks if os.path.isdir(images) else None
    stems = {stem(file, labels) for file in walk(labels, MASK_EXTENSIONS, {})} if os.path.isdir(labels) else set()
    paired = stems and any(stem(file, images) in stems for file in walk(images, EXTENSIONS, {}))
    return labels if paired else None


def is_a(name: str, extensions: frozenset[str]) -> bool:
    """Whether a file's name ends in one of the extensions."""
    return os.path.splitext(name)[1].lower() in extensions


def stem(file: str, folder: str | Path) -> str:
    """The path of a file relative to its folder, without extension."""
    return os.path.splitext(file)[0][len(os.path.join(folder, "")) :]


def read_bytes(path: str | Path, start: int = 0, size: int | None = None) -> bytes:
    """The content of a regular file, or a part of it; `Unreadable` if it is none, or more than `MAX_BYTES`."""
    try:
        # a pipe without a writer opens at once, and is refused like a device; Windows has neither
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))) as file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):
                raise Unreadable(_NOT_REGULAR)
            if (size := found.st_size if size is None else size) > MAX_BYTES:
                raise Unreadable(f"{size / 1e9:.1f} GB are too many to read")
            file.seek(start)
            return file.read(size)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror or error}") from error


def _kind(entry: os.DirEntry[str]) -> str:
    try:
        if entry.is_dir():
            return "folder"
        return "file" if entry.is_file() else _NOT_REGULAR
    except OSError as error:  # links to each other
        return error.strerror or str(error)
