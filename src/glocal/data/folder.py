"""Folders of images: which files, which labels, which splits, which masks.

The rules, for a folder as people keep them:

- Images are found at any depth, by extension, in the order of their paths. Names that start with a dot are hidden.
- `train`, `val` (`valid`, `validation`) and `test` sub-folders are splits when nothing else beside them holds images,
  or when `train` and another one are there. Without a split asked for, a folder with `train` is its `train`.
- `images` and `masks` side by side pair files of the same relative path, whatever the extension.
- The images have labels when every one lies exactly one sub-folder deep and there are at least two such sub-folders:
  their names are the classes, in alphabetical order, the same in all splits. Anything else (a dump of photos in folders
  by date) is a collection without labels.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from glocal.data.images import EXTENSIONS, EncodedImage, open_image, read_mask
from glocal.data.paths import existing, state_of
from glocal.data.source import Unreadable
from glocal.errors import UsageError

SPLITS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
MASK_EXTENSIONS = EXTENSIONS - {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"}  # JPEG does not keep class numbers
_NOT_CONTENT = ("__MACOSX", "@eaDir")  # what archives and network drives leave behind


class FolderSource:
    """The images below a folder (see the rules at the top of this file).

    Args:
        root: the folder.
        split: "train", "val" or "test", or None for train if there is one and for everything if not.

    Raises:
        UsageError: if the folder, the split, or any image in it is missing.
    """

    groups = captions = None

    def __init__(self, root: str | Path, split: str | None = None):
        self.root = existing(Path(root))
        self.name = self.root.resolve().name
        self.note = ""
        layouts = _layouts(self.root)
        if split is None:
            split = "train" if "train" in layouts else None
        if split is None and None not in layouts:  # splits, but no train
            self.files = [file for images, _ in layouts.values() for file in _files_below(self.root, images)]
            chosen, masks = self.root, None
        else:
            if split not in layouts:
                raise UsageError(_no_split(self.root, split, layouts))
            chosen, masks = layouts[split]
            self.files = _files_below(self.root, chosen)
        if not self.files:
            raise UsageError(_no_images(chosen))
        self._chosen = chosen
        self.classes, self.labels = self._read_labels(chosen, [images for images, _ in layouts.values()])
        self._masks = self._pair_masks(chosen, masks) if masks is not None else None
        self.has_masks = self._masks is not None
        self.mask_classes, self.ignore_index = _mask_legend(masks) if masks and self.has_masks else (None, None)

    def __len__(self) -> int:
        return len(self.files)

    def key(self, i: int) -> str:
        """The path of image i relative to the folder, with forward slashes."""
        return self.files[i]

    def open(self, i: int) -> EncodedImage:
        """Image i with its header read."""
        return open_image(self.root / self.files[i])

    def fingerprint(self) -> tuple[str, str]:
        """The folder, and a digest of its images' names, sizes and times."""
        return str(self._chosen.resolve()), state_of(self.root, self.files)

    def mask(self, i: int) -> np.ndarray:
        """(H, W) uint8 class of each pixel of image i.

        Raises:
            Unreadable: if the mask is broken or not of the image's size.
        """
        if self._masks is None:
            raise UsageError(f"{self.root} has no masks: put them in a folder masks/ beside images/, with equal names")
        mask = read_mask(self.root / self._masks[i])
        size = self.open(i).size
        if mask.shape[::-1] != size:
            raise Unreadable(f"the mask is {mask.shape[1]}×{mask.shape[0]}, its image {size[0]}×{size[1]}")
        return mask

    def _read_labels(self, chosen: Path, siblings: list[Path]) -> tuple[list[str] | None, np.ndarray | None]:
        depth = len(chosen.relative_to(self.root).parts)
        inner = [file.split("/")[depth:] for file in self.files]
        classes = sorted({name for folder in siblings for name in _class_folders(folder)})
        if len(classes) < 2:
            return None, None
        stray = [file for file, parts in zip(self.files, inner, strict=True) if len(parts) != 2]
        if stray:
            if len(stray) < len(self.files) / 10:
                self.note = f"no labels, because {len(stray):,} lie outside the class folders, e.g. {stray[0]}"
            return None, None
        position = {name: k for k, name in enumerate(classes)}
        return classes, np.array([position[parts[0]] for parts in inner], dtype=np.int64)

    def _pair_masks(self, images: Path, masks: Path) -> list[str] | None:
        """The mask of each image, or None unless all have one."""
        found = {_stem(file, masks, self.root): file for file in _files_below(self.root, masks, MASK_EXTENSIONS)}
        pairs = [found.get(_stem(file, images, self.root)) for file in self.files]
        paired = [mask for mask in pairs if mask is not None]
        if len(paired) < len(pairs):
            lost = self.files[pairs.index(None)]
            self.note = f"masks not used: {len(pairs) - len(paired):,} images have none, e.g. {lost}"
            return None
        return paired


def folder_splits(root: str | Path) -> set[str]:
    """The splits a folder has: any of "train", "val", "test"."""
    return {split for split in _layouts(existing(Path(root))) if split is not None}


def _layouts(root: Path) -> dict[str | None, tuple[Path, Path | None]]:
    """Where the images and the masks of each split are; the only key is None where there are no splits."""
    splits = _split_folders(root)
    if splits:
        return {split: _images_and_masks(folder) for split, folder in splits.items()}
    images, masks = _images_and_masks(root)
    inner = _split_folders(images) if masks is not None else {}
    if masks is not None and inner:  # images/train and masks/train
        return {split: (folder, masks / folder.name) for split, folder in inner.items()}
    return {None: (images, masks)}


def _images_and_masks(folder: Path) -> tuple[Path, Path | None]:
    images, masks = folder / "images", folder / "masks"
    return (images, masks) if images.is_dir() and masks.is_dir() else (folder, None)


def _split_folders(folder: Path) -> dict[str, Path]:
    folders = [child for child in _children(folder) if child.is_dir()]
    splits = {SPLITS[child.name.lower()]: child for child in folders if child.name.lower() in SPLITS}
    if "train" in splits and len(splits) > 1:
        return splits
    others = [child for child in folders if child.name.lower() not in SPLITS]
    return {} if any(next(_walk(child), None) for child in [*others]) else splits


def _children(folder: Path) -> list[Path]:
    """What is visible in a folder, by name."""
    if not folder.is_dir():
        return []
    names = sorted(name for name in os.listdir(folder) if not name.startswith(".") and name not in _NOT_CONTENT)
    return [folder / name for name in names]


def _walk(folder: Path, extensions: frozenset[str] = EXTENSIONS, seen: frozenset = frozenset()) -> Iterator[Path]:
    """Files below a folder with one of the extensions. Links are followed, but not in circles."""
    here = os.stat(folder)
    seen = seen | {(here.st_dev, here.st_ino)}
    children = _children(folder)
    names = {child.name for child in children}
    for child in children:
        if child.is_dir():
            inside = os.stat(child)
            paired = child.name == "masks" and "images" in names  # masks are not photographs
            if (inside.st_dev, inside.st_ino) not in seen and not paired:
                yield from _walk(child, extensions, seen)
        elif child.suffix.lower() in extensions:
            yield child


def _files_below(root: Path, folder: Path, extensions: frozenset[str] = EXTENSIONS) -> list[str]:
    """Paths relative to `root`, sorted."""
    return sorted(path.relative_to(root).as_posix() for path in _walk(folder, extensions)) if folder.is_dir() else []


def _class_folders(folder: Path) -> list[str]:
    """Sub-folders with an image directly in them."""
    folders = (child for child in _children(folder) if child.is_dir())
    return [f.name for f in folders if any(child.suffix.lower() in EXTENSIONS for child in _children(f))]


def _stem(file: str, folder: Path, root: Path) -> str:
    return PurePosixPath(file).relative_to(folder.relative_to(root).as_posix()).with_suffix("").as_posix()


def _mask_legend(masks: Path) -> tuple[list[str] | None, int | None]:
    """Names and ignored class from a classes.json beside the masks or in one of the two folders above.

    Either a list of names, or {"names" or "mask_names": [...], "ignore_index": k}.
    """
    for folder in (masks, masks.parent, masks.parent.parent):
        path = folder / "classes.json"
        if not path.is_file():
            continue
        try:
            legend = json.loads(path.read_text(encoding="utf-8"))
            if isinstance(legend, list):
                legend = {"names": legend}
            names, ignore = legend.get("mask_names", legend.get("names")), legend.get("ignore_index")
            return (None if names is None else [str(name) for name in names]), (None if ignore is None else int(ignore))
        except (ValueError, TypeError, AttributeError) as error:
            raise UsageError(
                f'{path}: expected ["name", ...] or {{"names": [...], "ignore_index": 0}}; {error}'
            ) from error
    return None, None


def _no_split(root: Path, split: str | None, layouts: dict) -> str:
    there = sorted(name for name in layouts if name)
    if not there:
        return f"{root} has no split {split!r}: expected {root / str(split)}; without a split all of it is used"
    return f"{root} has no split {split!r}; it has {', '.join(there)}"


def _no_images(folder: Path) -> str:
    """Why nothing was found: the folder is empty, or its files are of other kinds."""
    seen: Counter[str] = Counter()
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen.update(Path(name).suffix.lower() or "no extension" for name in names if not name.startswith("."))
    if not seen:
        return f"{folder} is empty: expected images in it or in its sub-folders"
    kinds = ", ".join(f"{kind} ×{count:,}" for kind, count in seen.most_common(6))
    return f"{folder} has no images, only {kinds}; readable are .jpg .png .webp .gif .bmp .tif .ppm .jp2 .avif"
