"""From what a person typed to a collection of images."""

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from glocal import plugins
from glocal.data.arrays import ArraySource, ConcatSource
from glocal.data.clips import ClipSource, joined
from glocal.data.filelist import FileListSource
from glocal.data.files import EXTENSIONS, existing
from glocal.data.folder import SPLITS, FolderSource, Listing, folder_splits
from glocal.data.source import ImageSource, TextSource, Unreadable
from glocal.data.stream import Stream
from glocal.data.text import Texts
from glocal.errors import UsageError


def open_source(spec: Any, *, split: str | None = None) -> ImageSource:
    """The collection of images that `spec` means.

    Args:
        spec: a folder, a list of files (.txt or .csv), a uint8 array (N, H, W, 3), a collection (returned as it is,
            see `complete`), a plug-in as `NAME`, `NAME:ARGUMENT`, `module:attribute` or `module:attribute:ARGUMENT`
            (`parts:n=500`, `torchvision:CIFAR10:ROOT`, `mine:Cells`), or a list of these, one after the other. A text
            with a colon is a path where one exists; a folder that is called like a plug-in is given as ./NAME. Any
            other iterable is a `Stream`. What `listed` made of any of these is taken in its place.
        split: "train", "val" or "test"; "all", one after the other. None means what to pretrain on: train where there
            are splits, else everything.

    Raises:
        UsageError: if there is nothing there, or nothing usable, or no such split.
    """
    if split not in (None, "all", *SPLITS.values()):
        raise UsageError(f"unknown split {split!r}: train, val, test or all")
    if isinstance(spec, list | tuple):
        parts = [open_source(part, split=split) for part in spec]
        if len(parts) > 1 and any(isinstance(part, Stream) for part in parts):
            raise UsageError("a stream among other data: give it alone")
        return _together(parts)
    if split == "all":
        spec = listed(spec)
        parts = [open_source(spec, split=name) for name in ("train", "val", "test") if has_split(spec, name)]
        return _together(parts) if len(parts) > 1 else open_source(spec)
    plugin, said = _plugin(spec), str(spec) if isinstance(spec, str | Path) else f"this {type(spec).__name__}"
    kind = "plugin" if plugin else _kind(spec)
    if split is not None and kind != "folder" and not has_split(spec, split):
        raise UsageError(f"{said} has no split {split!r}")
    if plugin:
        return _opened(*plugin, split)
    match kind:
        case "source":
            return complete(spec, said)
        case "array":
            return ArraySource(spec)
        case "list":
            return _usable(FileListSource(spec), spec)
        case _:
            listing = spec if isinstance(spec, Listing) else Listing(spec)
            return _usable(listing.open(split), listing.root)


def is_text(spec: Any) -> bool:
    """Whether `open_texts` is what opens it: `text:PATH`, a collection of texts, or a list of just one of these."""
    if isinstance(spec, list | tuple) and len(spec) == 1:
        return is_text(spec[0])
    return hasattr(spec, "text") or (isinstance(spec, str) and spec.startswith("text:") and not Path(spec).exists())


def open_texts(spec: Any) -> TextSource:
    """The collection of texts that `text:PATH` means (see `glocal.data.text.Texts`), or that it is."""
    spec = spec[0] if isinstance(spec, list | tuple) else spec
    return Texts(spec.partition(":")[2]) if isinstance(spec, str) else spec


def listed(spec: Any) -> Any:
    """The same spec, folders and lists of files looked through: for `open_source` in any split, without looking again.

    It is a picture of the moment, and can be sent to other processes that see the same folders.
    """
    if isinstance(spec, list | tuple):
        return [listed(part) for part in spec]
    kind = None if isinstance(spec, Listing) or _plugin(spec) else _kind(spec)
    return Listing(spec) if kind == "folder" else FileListSource(spec) if kind == "list" else spec


def has_split(spec: Any, split: str) -> bool:
    """Whether `open_source(spec, split=split)` would find that split; for a list, in all of its parts."""
    if isinstance(spec, list | tuple):
        return all(has_split(part, split) for part in spec)
    if plugin := _plugin(spec):
        name, argument = plugin
        splits = getattr(plugins.find("sources", name), "splits", ())
        return split in (splits(argument) if callable(splits) else splits)
    return _kind(spec) == "folder" and split in folder_splits(spec)


def describe(source: ImageSource) -> str:
    """One line about a collection: how many images, which labels and masks."""
    if isinstance(source, Stream):
        return "a stream"
    if is_text(source):
        return f"{len(source):,} texts"
    text = f"{len(source):,} image{'s' if len(source) != 1 else ''}"
    if source.classes is not None:
        text += f", {len(source.classes)} classes ({_some(source.classes)})"
    if source.has_masks:
        names = [name for k, name in enumerate(source.mask_classes or []) if k != source.ignore_index]
        text += f", masks of {len(names)} classes ({_some(names)})" if names else ", masks"
    if source.keypoints is not None:
        text += f", {len(source.keypoints.names)} keypoints ({_some(source.keypoints.names)})"
    return text + (f"; {source.note}" if source.note else "")


def describe_spec(spec: Any) -> str | list[str] | None:
    """What config.yaml can say of a data spec: text that opens the same; None for what is in memory."""
    if isinstance(spec, list | tuple):
        parts = [part for part in spec if isinstance(part, str | Path)]
        return [str(part) for part in parts] if len(parts) == len(spec) else None
    return str(spec) if isinstance(spec, str | Path) else None


def code_of(spec: Any) -> list[str]:
    """The places "module:attribute" that opening a data spec would import: see `plugins.refuse_untrusted`."""
    if isinstance(spec, list | tuple):
        return [name for part in spec for name in code_of(part)]
    plugin = _plugin(spec)
    return [plugin[0]] if plugin and ":" in plugin[0] else []


def complete(source: Any, said: str) -> ImageSource:
    """The collection itself, given what it may leave out: all of `ImageSource` but `__len__`, `key` and `open`.

    `UsageError` to its author, beginning with `said`, if it breaks the contract of `ImageSource`.
    """
    if isinstance(source, Stream) or (hasattr(source, "__iter__") and not hasattr(source, "open")):
        return source if isinstance(source, Stream) else Stream(source)
    if is_text(source):
        raise UsageError(f"{said} is text: that is for --method contriever, and for encoders that it made")
    breach = next((f"lacks `{name}`" for name in ("__len__", "key", "open") if not hasattr(source, name)), None)
    if breach is None:
        for attribute in ImageSource.__annotations__:
            if not hasattr(source, attribute):
                vars(source)[attribute] = getattr(ImageSource, attribute, type(source).__name__)  # its name
        breach = _breach(source)
    if breach is not None:
        raise UsageError(f"{said}: `{type(source).__name__}` {breach} ({plugins.GUIDE})")
    return source


def _breach(source: ImageSource) -> str | None:
    """What in a complete collection is not as `ImageSource` has it, for its author."""
    labels, number = source.labels, len(source)
    if labels is not None:
        if not isinstance(labels, np.ndarray) or labels.shape != (number,) or labels.dtype.kind not in "iu":
            return f"has `labels` that are no array of {number} integers, one for each image"
        if source.classes is None or labels.max(initial=-1) >= len(source.classes):
            return "has `labels` for which `classes` has no names"
    if source.has_masks and not hasattr(source, "mask"):
        return "lacks `mask`, with `has_masks`"
    try:
        image = source.open(0) if number else None
    except Unreadable:
        return None
    if image is not None and not (hasattr(image, "size") and hasattr(image, "decode")):
        return f"opens a {type(image).__name__}, without `size` and `decode`: wrap it in glocal.data.RawImage"
    return None


def _opened(name: str, argument: str, split: str | None) -> ImageSource:
    """The collection that a plug-in is, or makes of its argument and, where it has `splits`, of the split."""
    found, said = plugins.find("sources", name), f"source '{name}'"
    ready = hasattr(found, "open") and not isinstance(found, type)
    make = (lambda: found) if ready else found
    given, options = [argument] if argument else [], {"split": split} if hasattr(make, "splits") else {}
    try:
        inspect.signature(make).bind(*given, **options)
    except TypeError as error:
        how = "takes no argument" if argument else f"is not opened by its name alone: give {name}:ARGUMENT"
        raise UsageError(f"{said} {how} ({error})") from error
    return complete(make(*given, **options), said)


def _plugin(spec: Any) -> tuple[str, str] | None:
    """The plug-in that a text names and its argument; None for all else. A single letter before a colon is a drive."""
    if not isinstance(spec, str) or (":" in spec and Path(spec).exists()):
        return None
    name, argument = plugins.split("sources", spec)
    known = name in plugins.names("sources") or re.fullmatch(r"[^\W\d][\w.]+:[^\W\d][\w.]*", name)
    return (name, argument) if known else None


def _together(parts: list[ImageSource]) -> ImageSource:
    clips = [part for part in parts if isinstance(part, ClipSource)]
    if len(parts) == 1:
        return parts[0]
    return joined(clips) if clips and len(clips) == len(parts) else ConcatSource(parts)


def _kind(spec: Any) -> str:
    if isinstance(spec, Listing):
        return "folder"
    if isinstance(spec, str | Path):
        path = existing(Path(spec))
        if path.is_dir():
            return "folder"
        if path.suffix.lower() in (".txt", ".csv"):
            return "list"
        if path.suffix.lower() in EXTENSIONS:
            raise UsageError(f"{path} is a single image; give the folder it is in, {path.parent}")
        raise UsageError(f"{path} is neither a folder nor a list of files (.txt or .csv)")
    if isinstance(spec, np.ndarray) or hasattr(spec, "detach"):
        return "array"
    if any(hasattr(spec, name) for name in ("open", "key", "__iter__")) and not isinstance(spec, dict):
        return "source"
    kinds = "a folder, a list file, an array, `parts`, an iterable, or a collection with __len__, key and open"
    raise UsageError(f"cannot read images from a {type(spec).__name__}: give {kinds}")


def _usable(source: FolderSource | FileListSource, where: str | Path) -> ImageSource:
    """The source, if at least one of its files has the header of an image."""
    reasons = []
    for i in range(len(source)):
        try:
            source.open(i)
            return source
        except Unreadable as error:
            reasons.append(f"{source.key(i)}: {error}")
    raise UsageError(f"nothing usable in {where}: none of {len(source):,} files can be read ({reasons[0]})")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])}, …"
