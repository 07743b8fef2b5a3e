"""Folders of images: which files, which labels, which splits, which masks.

The rules, for a folder as people keep them:

- Images are found at any depth, by extension, in the order of their paths. Names that start with a dot are hidden.
- `train`, `val` (`valid`, `validation`) and `test` sub-folders are splits when nothing else beside them holds images,
  or when `train` and another one are there. Without a split asked for, a folder with `train` is its `train`.
- `images` and `masks` side by side pair files of the same relative path, whatever the extension; so do `images` and
  `labels` where the names in both are equal.
- The images have labels when every one lies exactly one sub-folder deep and there are at least two such sub-folders:
  their names are the classes, in alphabetical order, the same in all splits. Anything else (a dump of photos in folders
  by date) is a collection without labels.
- `joints.npy` beside the images, or beside the folder `images`, holds their keypoints (`read_joints`).
- `groups.csv` directly below the folder says what images share (`read_groups`): a camera, a patient, a video;
  `captions.csv`, with the columns `image` and `caption`, what each shows (`read_captions`).
- Links are followed, each folder is looked at once. What is no regular file, or may not be read, is left out and named.
"""

import os
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glocal.data.filelist import Files, read_captions, read_groups
from glocal.data.files import (
    EXTENSIONS,
    MASK_EXTENSIONS,
    OTHER_EXTENSIONS,
    OTHER_FORMAT,
    existing,
    mask_folder,
    shown,
    stem,
    visible,
    walk,
)
from glocal.data.images import Window
from glocal.data.joints import read_joints
from glocal.data.masks import Legend, read_legend, read_mask, with_palette
from glocal.data.source import Unreadable
from glocal.errors import UsageError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass
class _Part:
    """The images of one split, or of a folder without splits, and their masks: paths relative to the root, sorted."""

    place: Path  # the folder of the images
    masks: Path | None
    files: list[str]
    mask_files: list[str]
    skipped: dict[str, str]  # what cannot be read: path → reason
    joints: Path | None  # the file of keypoints


class Listing:
    """A folder looked through once: all of its splits can be had without looking again.

    Args:
        root: the folder; `UsageError` if it is missing.
    """

    def __init__(self, root: str | Path):
        self.root, self.skipped = existing(Path(root)), dict[str, str]()
        self.parts = {split: self._list(*part) for split, part in _layouts(self.root, self.skipped).items()}
        self.groups = table if (table := self.root / "groups.csv").is_file() else None
        self.captions = dict[str, str | None]()  # by key, of all splits
        if (table := self.root / "captions.csv").is_file():
            keys = list(dict.fromkeys(shown(file) for part in self.parts.values() for file in part.files))
            self.captions = dict(zip(keys, read_captions(table, keys), strict=True))
        self._opened: dict[str | None, FolderSource] = {}

    @property
    def splits(self) -> set[str]:
        """The splits it has: any of "train", "val", "test"."""
        return {split for split in self.parts if split}

    def open(self, split: str | None = None) -> "FolderSource":
        """The images of a split: see `FolderSource`. The same object for the same split."""
        if split not in self._opened:
            self._opened[split] = FolderSource(self, split)
        return self._opened[split]

    def _list(self, place: Path, masks: Path | None) -> _Part:
        skipped: dict[str, str] = {}
        files = self._below(place, EXTENSIONS, skipped)
        joints = (place.parent if masks else place) / "joints.npy"
        painted = self._below(masks, MASK_EXTENSIONS, {}) if masks else []
        return _Part(place, masks, files, painted, skipped, joints if joints.is_file() else None)

    def _below(self, folder: Path, extensions: frozenset[str], skipped: dict[str, str]) -> list[str]:
        start = len(os.path.join(self.root, ""))
        return sorted(path[start:].replace(os.sep, "/") for path in walk(folder, extensions, skipped))


class FolderSource(Files):
    """The images below a folder (see the rules at the top of this file).

    Args:
        root: the folder; `UsageError` if it is missing, or has no image.
        split: "train", "val" or "test", or None for train if there is one and for everything if not.
        window: see `Files`.
    """

    def __init__(self, root: str | Path | Listing, split: str | None = None, *, window: Window | None = None):
        listing = root if isinstance(root, Listing) else Listing(root)
        self.root, self.window, parts = listing.root, window, listing.parts
        self.name = shown(self.root.resolve().name)
        if split is None and "train" in parts:
            split = "train"
        if split is not None and split not in parts:
            there = ", ".join(sorted(listing.splits))
            hint = (
                f"; it has {there}" if there else f": expected {self.root / split}; without a split all of it is used"
            )
            raise UsageError(f"{self.root} has no split {split!r}{hint}")
        part = parts.get(split)  # None: there are splits, but no train
        chosen = [part] if part else list(parts.values())
        self._place = part.place if part else self.root
        self.files = part.files if part else [file for one in chosen for file in one.files]
        skipped = {**listing.skipped, **{path: why for one in chosen for path, why in one.skipped.items()}}
        if not self.files:
            raise UsageError(_no_images(self._place, skipped))
        notes = list[str]()
        self._read_labels(parts.values(), notes)
        self._masks, self._legend = None, Legend()
        if part and part.masks and (paired := self._pair_masks(part.place, part.masks, part.mask_files, notes)):
            try:
                files = [file for one in parts.values() for file in one.mask_files]
                legend = read_legend([part.masks, *part.masks.parents][:3])
                self._masks, self._legend = paired, with_palette(legend, self.root, files)
            except Unreadable as error:
                notes.append(f"masks not used: {error}")
        self.has_masks = self._masks is not None
        self.mask_classes, self.ignore_index = self._legend.names, self._legend.ignore_index
        if listing.groups:
            try:
                self.groups = read_groups(listing.groups, [self.key(i) for i in range(len(self))])
            except UsageError as error:
                notes.append(f"groups not used: {error}")
        captions = [listing.captions.get(self.key(i)) for i in range(len(self))]
        self.captions = captions if any(captions) else None
        if part and part.joints:
            try:
                self.keypoints = read_joints(part.joints, len(self))
            except UsageError as error:
                notes.append(f"keypoints not used: {error}")
        if skipped:
            notes.append(f"skipped {_some_of(skipped, self.root)}")
        self.note = "; ".join(notes)

    def mask(self, i: int) -> np.ndarray:
        """(H, W) uint8 class of each pixel of image i; `Unreadable` if it is broken or not of the image's size."""
        if self._masks is None:
            raise UsageError(f"{self.root} has no masks: put them in a folder masks/ beside images/, with equal names")
        mask = read_mask(self.root / self._masks[i], self._legend.palette)
        size = self.open(i).size
        if mask.shape[::-1] != size:
            raise Unreadable(f"the mask is {mask.shape[1]}×{mask.shape[0]}, its image {size[0]}×{size[1]}")
        return mask

    def _read_labels(self, parts: Iterable[_Part], notes: list[str]) -> None:
        depth = len(self._place.relative_to(self.root).parts)
        inner = [file.split("/")[depth:] for file in self.files]
        position = {
            name: k for k, name in enumerate(sorted(set().union(*(_classes(self.root, part) for part in parts))))
        }
        stray = [file for file, steps in zip(self.files, inner, strict=True) if len(steps) != 2]
        if len(position) > 1 and not stray:
            self.classes = [shown(name) for name in position]
            self.labels = np.array([position[steps[0]] for steps in inner], dtype=np.int64)
        elif len(position) > 1 and len(stray) < len(self.files) / 10:
            notes.append(f"no labels, because {len(stray):,} lie outside the class folders, e.g. {shown(stray[0])}")

    def _pair_masks(self, images: Path, masks: Path, files: list[str], notes: list[str]) -> list[str] | None:
        """The mask of each image, or None unless all have one."""
        images, masks = images.relative_to(self.root), masks.relative_to(self.root)
        found = {stem(file, masks): file for file in files}
        pairs = [found.get(stem(file, images)) for file in self.files]
        paired = [mask for mask in pairs if mask is not None]
        if len(paired) < len(pairs):
            lost = shown(self.files[pairs.index(None)])
            notes.append(f"masks not used: {len(pairs) - len(paired):,} images have none, e.g. {lost}")
            return None
        return paired


def folder_splits(root: str | Path | Listing) -> set[str]:
    """The splits a folder has: any of "train", "val", "test"."""
    return (
        root.splits if isinstance(root, Listing) else {split for split in _layouts(existing(Path(root)), {}) if split}
    )


def _layouts(root: Path, skipped: dict[str, str]) -> dict[str | None, tuple[Path, Path | None]]:
    """Where the images and the masks of each split are; the only key is None where there are no splits."""
    splits = _split_folders(root, skipped)
    if splits:
        return {split: _images_and_masks(folder) for split, folder in splits.items()}
    images, masks = _images_and_masks(root)
    inner = _split_folders(images, {}) if masks else {}  # images/train and masks/train
    return {split: (f, masks and masks / f.name) for split, f in inner.items()} or {None: (images, masks)}


def _images_and_masks(folder: Path) -> tuple[Path, Path | None]:
    masks = mask_folder(folder)
    return (folder, None) if masks is None else (folder / "images", Path(masks))


def _split_folders(folder: Path, skipped: dict[str, str]) -> dict[str, Path]:
    folders = [Path(child.path) for child, kind in visible(folder, skipped) if kind == "folder"]
    splits = {SPLITS[child.name.lower()]: child for child in folders if child.name.lower() in SPLITS}
    if "train" in splits and len(splits) > 1:
        return splits
    others = [child for child in folders if child.name.lower() not in SPLITS]
    return {} if any(next(walk(child, EXTENSIONS, {}), None) for child in others) else splits


def _classes(root: Path, part: _Part) -> set[str]:
    """Sub-folders with an image directly in them."""
    depth = len(part.place.relative_to(root).parts)
    return {steps[0] for steps in (file.split("/")[depth:] for file in part.files) if len(steps) == 2}


def _no_images(folder: Path, skipped: Mapping[str, str]) -> str:
    """Why nothing was found: the folder is empty, or its files are of other kinds, or nothing can be read."""
    if any(why != OTHER_FORMAT for why in skipped.values()):
        return f"{folder} has no image that can be read; skipped {_some_of(skipped, folder)}"
    seen: Counter[str] = Counter()
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen.update(Path(name).suffix.lower() or "no extension" for name in names if not name.startswith("."))
    if not seen:
        return f"{folder} is empty: expected images in it or in its sub-folders"
    kinds = ", ".join(f"{shown(kind)} ×{count:,}" for kind, count in seen.most_common(6))
    first = next((kind for kind in seen if kind in OTHER_EXTENSIONS), None)
    hint = f"; to convert them with ImageMagick: magick mogrify -format png *{first}" if first else ""
    return f"{folder} has no images, only {kinds}; readable are .jpg .png .webp .gif .bmp .tif .ppm .jp2 .avif{hint}"


def _some_of(skipped: Mapping[str, str], root: Path, most: int = 3) -> str:
    """'a/b (why), c (why) and 2 more'."""
    named = [f"{shown(os.path.relpath(path, root))} ({why})" for path, why in sorted(skipped.items())]
    return ", ".join(named[:most]) + (f" and {len(named) - most:,} more" if len(named) > most else "")
