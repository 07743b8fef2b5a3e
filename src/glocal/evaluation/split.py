"""Which images a task may learn from and which it is scored on: never the same ones, and the answer says which."""

import numpy as np

from glocal import random
from glocal.data import ImageSource, Subset
from glocal.errors import UsageError


def held_out(
    count: int, seed: int, stream: str, *, labels: np.ndarray | None = None, share: float = 0.2
) -> tuple[np.ndarray, np.ndarray]:
    """A deterministic share of `count` samples, stratified by label where there are labels.

    Args:
        count: number of samples N.
        seed: of the choice.
        stream: what the split is for; different streams are independent.
        labels: (N,) integers, or None.
        share: to hold, a fifth.

    Returns:
        Sorted positions (kept, held): a class of one is kept, of two or more gives at least one to each side.
    """
    groups = [np.arange(count)] if labels is None else [np.flatnonzero(labels == c) for c in np.unique(labels)]
    held: list[np.ndarray] = []
    for number, group in enumerate(groups):
        order = random.permutation(len(group), seed, stream, number)
        held.append(group[order[: min(max(1, round(len(group) * share)), len(group) - 1)]])
    chosen = np.sort(np.concatenate(held)) if held else np.arange(0)
    return np.setdiff1d(np.arange(count), chosen), chosen


def same_classes(train: ImageSource, test: ImageSource) -> ImageSource:
    """`test` with its labels numbered as in `train`: a class missing from one split shifts the numbers of the others.

    A `UsageError` if `test` holds classes that `train` lacks.
    """
    if train.classes is None or test.classes is None or test.labels is None or train.classes == test.classes:
        return test
    if unknown := sorted(set(test.classes) - set(train.classes)):
        some = ", ".join(unknown[:5]) + (f" and {len(unknown) - 5} more" if len(unknown) > 5 else "")
        raise UsageError(f"{test.name}: classes {some} are in the test images but not in the training ones")
    numbers = np.array([train.classes.index(name) for name in test.classes], dtype=np.int64)
    renumbered = Subset(test, np.arange(len(test)))
    renumbered.classes, renumbered.labels = train.classes, numbers[np.asarray(test.labels)]
    return renumbered


def spread_over(source: ImageSource, most: int) -> ImageSource:
    """At most `most` images, 1 at least, spread evenly over the collection (folders are sorted by class)."""
    return source if len(source) <= most else Subset(source, spread_positions(len(source), most))


def spread_positions(count: int, most: int) -> np.ndarray:
    """Which of `count` images `spread_over` takes."""
    if most < 1:
        raise UsageError(f"images is {most}; look at one at least")
    return np.arange(count) if count <= most else np.arange(most) * count // most
