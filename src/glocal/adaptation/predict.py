"""What a fine-tuned encoder says of images."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from glocal.adaptation.finetune import places
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.evaluation.extract import frozen, stream


@dataclass
class Predictions:
    """What is said of each readable image.

    Attributes:
        paths: N names of the images.
        answers: N arrays: the probability of each class (K,), the numbers and probabilities of the likeliest of many
            names (k, 2), or the class of each pixel (h, w) uint8.
        classes: K names.
        skipped: (name, reason) of the images that could not be read.
    """

    paths: list[str]
    answers: list[np.ndarray]
    classes: list[str]
    skipped: list[tuple[str, str]] = field(default_factory=list)

    @property
    def labels(self) -> list[str]:
        """The likeliest class of each image, where the answers are of classes."""
        return [self.classes[int(a[0, 0]) if a.ndim == 2 else a.argmax()] for a in self.answers]


def predictions(encoder: Any, head: Any, source: ImageSource, **options: Any) -> Iterator[tuple[int, np.ndarray]]:
    """(position, answer) of each readable image, in order; nothing is kept.

    Args:
        encoder: a Backbone.
        head: on the same device.
        source: the images.
        options: those of `glocal.evaluation.extract.stream`; `image_size` at least.

    Raises:
        UsageError: if no image can be read.
    """
    found = False
    for index, features in stream(encoder, source, crop_pct=head.crop_pct, **options):
        with frozen(head):
            logits = head(features)
        looks = places(encoder, features, options["image_size"])
        for i, each in zip(index.tolist(), logits, strict=True):
            found = True
            yield i, head.answer(each, source.open(i).size, looks)
    if not found:
        raise UsageError(f"none of the {len(source)} images of {source.name} can be read; is it the right folder?")


def score(encoder: Any, head: Any, source: ImageSource, **options: Any) -> dict[str, float]:
    """The head's scores on images whose answers are known."""
    return head.scores(
        sum(head.tally(answer, source, i) for i, answer in predictions(encoder, head, source, **options))
    )
