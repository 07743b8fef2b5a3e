"""`EvalContext`, what a task receives: a frozen encoder, two disjoint collections, features extracted once for all."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.evaluation.extract import FeatureBank, Precision, check_loading, device_of, extract
from glocal.evaluation.groups import PerImage
from glocal.progress import Progress

T = TypeVar("T")


@dataclass
class EvalContext:
    """A frozen encoder and what to examine it on.

    Attributes:
        encoder: maps normalised (B, 3, h, w) to `Features`, with `.mean` and `.std`.
        train: what a task may learn from.
        test: what it is scored on, once.
        image_size: side of the square given to the encoder, pixels.
        seed: of every random choice that a task makes.
        precision: "fp32" or "bf16".
        skipped: (key, reason) of what could not be read; tasks add to it.
        each: what a task may say of each test image, for scores by group.
        generator: makes images from what the encoder knows, in a run that has one (`glocal.generation`).
        method: opens the whole method of the run that the encoder is of, where there is one.
        native: whether images keep their shapes, and have the area of that square.
    """

    encoder: nn.Module
    train: ImageSource
    test: ImageSource
    image_size: int
    batch_size: int = 128
    workers: int = 0
    seed: int = 0
    precision: Precision = "fp32"
    progress: Progress | None = None
    skipped: list[tuple[str, str]] = field(default_factory=list)
    each: PerImage | None = None
    native: bool = False
    generator: Any = None
    method: Callable[[], nn.Module] | None = None
    _banks: dict[str, FeatureBank] = field(default_factory=dict, repr=False)
    _kept: dict[Any, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        check_loading(self.batch_size, self.workers)

    def extract(self, source: ImageSource, **options) -> FeatureBank:
        """Features of a collection with this context's settings; `options` as in `glocal.evaluation.extract`."""
        settings = {name: getattr(self, name) for name in ("batch_size", "workers", "precision", "progress", "native")}
        return extract(self.encoder, source, image_size=self.image_size, **(settings | options))

    def bank(self, split: str) -> FeatureBank:
        """Pooled features of "train" or "test", centre-cropped; computed at the first call and kept."""
        if split not in self._banks:
            self._banks[split] = self.extract({"train": self.train, "test": self.test}[split])
            self.skipped.extend(self._banks[split].skipped)
        return self._banks[split]

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """`make()`, computed at the first call with this key and kept: what several tasks share."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    def labels(self, bank: FeatureBank) -> Tensor:
        """The bank's labels (N,); a `UsageError` if the collection has none."""
        if bank.labels is None:
            raise UsageError("this task needs labels; give a folder with one sub-folder per class")
        return bank.labels

    @property
    def device(self) -> torch.device:
        """Where the encoder is; classifiers run there too."""
        return device_of(self.encoder)
