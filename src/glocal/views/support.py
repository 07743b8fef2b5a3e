"""Which labelled images accompany each batch: equally many of each class, in a fixed order (PAWS)."""

import numpy as np

from glocal import random
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.views.recipe import Support


def support_seed(seed: int) -> int:
    """The seed that the views of labelled images are drawn with, in a run of this seed."""
    return random.derive(seed, "support")


def choose_labelled(source: ImageSource, labelled: float, seed: int) -> list[np.ndarray]:
    """Sample ids of each class whose labels may be used, sorted; a pure function of the seed.

    `labelled` is, of each class, a fraction below 1 (at least one image), or from 1 on a number of images.
    """
    if source.labels is None:
        raise UsageError(f"{source.name} has no labels, of which this method needs a few: put images in class folders")
    if labelled <= 0:
        raise UsageError(f"labelled={labelled}: give a fraction of each class, or from 1 on a number of its images")
    chosen = []
    for label in np.unique(source.labels[source.labels >= 0]).tolist():
        ids = np.flatnonzero(source.labels == label)
        number = round(labelled) if labelled >= 1 else max(1, round(labelled * len(ids)))
        chosen.append(np.sort(ids[random.permutation(len(ids), seed, "labelled", label)[:number]]))
    return chosen


def balanced_draws(ids: list[np.ndarray], support: Support, steps: int, seed: int, epoch: int) -> np.ndarray:
    """(steps, classes, images) sample ids of an epoch: per step some classes, in their order, and images of each.

    Within an epoch no image of a class comes again before all others of its class have come. `ids` has an array of
    labelled images for each class.
    """
    classes = min(support.classes, len(ids))
    served = [np.sort(random.permutation(len(ids), seed, "classes", epoch, step)[:classes]) for step in range(steps)]
    queues = []
    for number, of_class in enumerate(ids):
        needed = support.images * sum(number in step for step in served)
        rounds = range(-(-needed // len(of_class)))
        orders = [of_class[random.permutation(len(of_class), seed, "support", epoch, number, k)] for k in rounds]
        queues.append(iter(np.concatenate(orders).tolist() if orders else []))
    drawn = [[next(queues[number]) for _ in range(support.images)] for step in served for number in step]
    return np.array(drawn, dtype=np.int64).reshape(steps, classes, support.images)
