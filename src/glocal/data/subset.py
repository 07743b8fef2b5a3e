"""Some images of a collection, and dividing one so that no group is on both sides."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from glocal import random
from glocal.data.source import Groups, ImageSource, OpenImage, path_of
from glocal.errors import UsageError, did_you_mean

DRAWS = 32
"""Of groups to hold out, of which the one is taken whose share of the images is nearest to what is asked for."""


@dataclass
class Subset(ImageSource):
    """Some images of a collection, as a collection."""

    source: ImageSource
    positions: np.ndarray

    def __post_init__(self) -> None:
        source, at = self.source, np.asarray(self.positions)
        self.name, self.classes, self.has_masks, self.note = source.name, source.classes, source.has_masks, source.note
        self.mask_classes, self.ignore_index = source.mask_classes, source.ignore_index
        self.labels = None if source.labels is None else np.asarray(source.labels)[at]
        self.groups = source.groups and {name: Groups(by.names, by.of[at]) for name, by in source.groups.items()}
        self.keypoints = source.keypoints and source.keypoints.at(at)
        self.captions = source.captions and [source.captions[i] for i in at]

    def __len__(self) -> int:
        return len(self.positions)

    def key(self, i: int) -> str:
        return self.source.key(int(self.positions[i]))

    def open(self, i: int) -> OpenImage:
        return self.source.open(int(self.positions[i]))

    def path_of(self, i: int) -> Path | None:
        return path_of(self.source, int(self.positions[i]))

    def mask(self, i: int) -> np.ndarray:
        return self.source.mask(int(self.positions[i]))


def split_by(source: ImageSource, column: str, share: float, seed: int) -> tuple[Subset, Subset]:
    """Hold out whole groups: none has images on both sides. An image whose group is unknown is one by itself.

    The groups are laid out by size and cut into as many parts as are held out, of each of which one is drawn: large and
    small ones are held out alike.

    Args:
        source: the images.
        column: which of its `groups`; `UsageError` if there is none, or it has just one group.
        share: of the images to hold out, between 0 and 1, about: groups stay whole.
        seed: of the choice.

    Returns:
        What is kept and what is held out, each with a group at least.
    """
    columns = source.groups or {}
    if column not in columns:
        there = f"; it has {', '.join(columns)}" if columns else ": a list file (.csv) with such a column has them"
        raise UsageError(f"{source.name} has no groups '{column}'{did_you_mean(column, columns)}{there}")
    if not 0 < share < 1:
        raise UsageError(f"share {share} of {source.name} cannot be held out: give one between 0 and 1")
    of = columns[column].of
    alone = len(columns[column].names) + np.arange(len(of))
    _, group, sizes = np.unique(np.where(of < 0, alone, of), return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        raise UsageError(f"all images of {source.name} are of one {column}: there is none to hold out")
    number = min(max(1, round(share * len(sizes))), len(sizes) - 1)
    edges = np.arange(number + 1) * len(sizes) // number
    u = random.uniform(seed, "split_by", np.arange(DRAWS), n=number)
    draws = sizes.argsort(kind="stable")[edges[:-1] + (u * np.diff(edges)).astype(np.int64)]  # (DRAWS, number)
    best = draws[np.abs(sizes[draws].sum(1) - share * len(of)).argmin()]
    held = np.isin(group, best)
    return Subset(source, np.flatnonzero(~held)), Subset(source, np.flatnonzero(held))
