"""What a fine-tuning run learns from, and what it is checked on."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from glocal import random
from glocal.adaptation.heads import Labelled, find_head, require, suited_head
from glocal.adaptation.ranked import read_names
from glocal.data import ConcatSource, Subset, has_split, listed, open_source
from glocal.data.source import ImageSource
from glocal.data.stream import Stream
from glocal.data.subset import split_by
from glocal.errors import UsageError
from glocal.evaluation.split import held_out


@dataclass
class Split:
    """Labelled images to learn from and to check on, and in words where the latter come from."""

    everything: ImageSource
    train: Labelled
    held: Labelled | None
    said: str


def open_labelled(data: Any, options: Mapping[str, Any], seed: int, past: Any = None) -> tuple[str, Split]:
    """The head that suits the data, and what it learns from and is checked on: `val`, else a share of the images.

    Args:
        data: what `glocal.data.open_source` takes.
        options: of fine-tuning: `head`, `hold_out`, `split_by`, `labels`, `names`, `text`.
        seed: of every choice.
        past: see `glocal.pipeline.past`: its classes come first, its images are among those to learn from and to check
            on.
    """
    name, split = _open(data, options, seed, past.head.classes if past else [])
    return name, _joined(split, past, find_head(name)) if past else split


def _joined(split: Split, past: Any, cls: Any) -> Split:
    """With the images of the past, first."""

    def both(old: ImageSource | None, new: Labelled) -> Labelled:
        known = [cls.read(old, new.classes).source] if old is not None and len(old) else []
        return cls.read(ConcatSource([*known, new.source]), new.classes)

    held = split.held and both(past.held, split.held)
    return Split(split.everything, both(past.exemplars, split.train), held, split.said)


def _open(data: Any, options: Mapping[str, Any], seed: int, old: list[str]) -> tuple[str, Split]:
    """`open_labelled` without the images of the past; `old` are its classes."""
    share, column, number = options["hold_out"], options["split_by"], options.get("labels")
    if not 0 <= share < 1:
        raise UsageError(f"--hold-out {share} is not a share of the images: give 0, or less than 1")
    if number is not None and number < 1:
        raise UsageError(f"--labels {number}: learn from one image at least")
    spec = listed(data)
    source = open_source(spec)
    if isinstance(source, Stream):
        raise UsageError(f"{source.name} is a stream: fine-tuning needs a folder or a list of labelled images")
    name = options["head"] or suited_head(source)
    require(source, name)
    cls = find_head(name)
    if clash := [known for known in source.classes or [] if known in old]:
        raise UsageError(f"{source.name} has images of '{clash[0]}', which is known already: name it otherwise")
    for option in ("names", "text"):
        if options.get(option) is not None and option not in getattr(cls, "options", ()):
            raise UsageError(f"--{option} is nothing for --head {name}: leave it out")
    listed_names = read_names(options["names"]) if options.get("names") else None
    classes = [*old, *(source.classes or [])] if old else listed_names

    def train(kept: ImageSource, classes: list[str] | None = None) -> Labelled:
        whole = cls.read(kept, classes)
        if number is None or number >= len(whole.source):
            return whole
        drawn = np.sort(random.permutation(len(whole.source), seed, "labels")[:number])
        return cls.read(Subset(kept, whole.source.positions[drawn]), whole.classes)

    if share and column is None and has_split(spec, "train") and has_split(spec, "val"):
        val = open_source(spec, split="val")
        every = cls.read(ConcatSource([source, val])).classes if cls.needs == "captions" else classes
        known = train(source, every)
        return name, Split(source, known, cls.read(val, known.classes), "val")
    if not share:
        return name, Split(source, train(source, classes), None, "nothing is held out")
    whole = cls.read(source, classes)
    few = len(old) + np.flatnonzero(whole.amounts[len(old) :] < 2)
    if cls.needs == "labels" and listed_names is None and few.size:
        lacking = f"class '{whole.classes[few[0]]}' has {whole.amounts[few[0]]} image(s)"
        raise UsageError(f"{source.name}: {lacking}; each needs two, one to learn from and one to check on")
    if column is not None:
        kept, held = split_by(source, column, share, seed)
        said = f"whole groups by {column}"
    else:
        labels = np.asarray(source.labels) if cls.needs == "labels" else None
        kept, held = (Subset(source, at) for at in held_out(len(source), seed, "finetune", labels=labels, share=share))
        said = f"about {share:.0%} of them"
    if not len(held):
        raise UsageError(f"{source.name} has {len(source)} image(s), too few to hold some back to check on")
    return name, Split(source, train(kept, whole.classes), cls.read(held, whole.classes), said)
