"""From what a person typed to a collection of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glocal.data.arrays import ArraySource, ConcatSource
from glocal.data.filelist import FileListSource
from glocal.data.folder import SPLITS, FolderSource, folder_splits
from glocal.data.images import EXTENSIONS
from glocal.data.parts import SPLIT_NAMES as PARTS_SPLITS
from glocal.data.parts import PartsWorld
from glocal.data.paths import existing
from glocal.data.source import ImageSource, Unreadable
from glocal.data.torchvision import TorchvisionSource, torchvision_splits
from glocal.errors import UsageError


def open_source(spec: Any, *, split: str | None = None) -> ImageSource:
    """The collection of images that `spec` means.

    Args:
        spec: a folder, a list of files (.txt or .csv), `torchvision:NAME` or `torchvision:NAME:ROOT`, `parts` or
            `parts:key=value,...` (`PartsWorld`), a uint8 array (N, H, W, 3), a collection (returned as it is), or a
            list of these, one after the other.
        split: "train", "val" or "test". None means what to pretrain on: train where there are splits, else everything.

    Raises:
        UsageError: if there is nothing there, or nothing usable, or no such split.
    """
    if split is not None and split not in SPLITS.values():
        raise UsageError(f"unknown split {split!r}: train, val or test")
    if isinstance(spec, list | tuple):
        parts = [open_source(part, split=split) for part in spec]
        return parts[0] if len(parts) == 1 else ConcatSource(parts)
    if split is not None and not has_split(spec, split):
        if _kind(spec) == "folder":
            FolderSource(spec, split)  # says which splits there are
        raise UsageError(f"{_describe_spec(spec)} has no split {split!r}")
    match _kind(spec):
        case "source":
            return spec
        case "array":
            return ArraySource(spec)
        case "parts":
            return PartsWorld.from_spec(str(spec), split=split or "train")
        case "torchvision":
            return TorchvisionSource(str(spec).partition(":")[2], split)
        case "list":
            return _usable(FileListSource(spec), spec)
        case _:
            return _usable(FolderSource(spec, split), spec)


def has_split(spec: Any, split: str) -> bool:
    """Whether `open_source(spec, split=split)` would find that split; for a list, in all of its parts."""
    if isinstance(spec, list | tuple):
        return all(has_split(part, split) for part in spec)
    match _kind(spec):
        case "parts":
            return split in PARTS_SPLITS
        case "torchvision":
            return split in torchvision_splits(str(spec).split(":")[1])
        case "folder":
            return split in folder_splits(spec)
        case _:
            return False


def describe(source: ImageSource) -> str:
    """One line about a collection: how many images, which labels and masks."""
    text = f"{len(source):,} image{'s' if len(source) != 1 else ''}"
    if source.classes is not None:
        text += f", {len(source.classes)} classes ({_some(source.classes)})"
    if source.has_masks:
        names = [name for k, name in enumerate(source.mask_classes or []) if k != source.ignore_index]
        text += f", masks of {len(names)} classes ({_some(names)})" if names else ", masks"
    return text + (f"; {source.note}" if source.note else "")


def _kind(spec: Any) -> str:
    if isinstance(spec, str | Path):
        text = str(spec)
        if text == "parts" or text.startswith("parts:"):
            return "parts"
        if text.startswith("torchvision:"):
            return "torchvision"
        path = existing(Path(text))
        if path.is_dir():
            return "folder"
        if path.suffix.lower() in (".txt", ".csv"):
            return "list"
        if path.suffix.lower() in EXTENSIONS:
            raise UsageError(f"{path} is a single image; give the folder it is in, {path.parent}")
        raise UsageError(f"{path} is neither a folder nor a list of files (.txt or .csv)")
    if isinstance(spec, np.ndarray) or hasattr(spec, "detach"):
        return "array"
    if hasattr(spec, "open") and hasattr(spec, "key") and hasattr(spec, "__len__"):
        return "source"
    raise UsageError(
        f"cannot read images from a {type(spec).__name__}: give a folder, a list file, an array, or `parts`"
    )


def _usable(source: FolderSource | FileListSource, where: str | Path) -> ImageSource:
    """The source, if at least one of its files has the header of an image."""
    reason = ""
    for i in range(len(source)):
        try:
            source.open(i)
        except Unreadable as error:
            reason = reason or f"{source.key(i)}: {error}"
        else:
            return source
    raise UsageError(f"nothing usable in {where}: none of {len(source):,} files can be read ({reason})")


def _some(names: Sequence[str], shown: int = 3) -> str:
    return ", ".join(names) if len(names) <= shown + 1 else f"{', '.join(names[:shown])}, …"


def _describe_spec(spec: Any) -> str:
    return str(spec) if isinstance(spec, str | Path) else f"this {type(spec).__name__}"
