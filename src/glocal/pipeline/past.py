"""The classes that a fine-tuned folder knows already, and the images of them that it keeps."""

import csv
import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from glocal.adaptation import load_head
from glocal.adaptation.memory import Neighbours, exemplars
from glocal.adaptation.ranked import Ranked
from glocal.backbones import load_encoder
from glocal.config import PretrainConfig
from glocal.data import FileListSource, Subset, code_of
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError
from glocal.evaluation.extract import placed
from glocal.pipeline.labelled import Split, open_labelled
from glocal.plugins import refuse_untrusted
from glocal.run import Run, write_atomically


@dataclass
class Past:
    """A head, exemplars of its classes, and others of their images to check on, where there are some."""

    head: Any
    exemplars: ImageSource
    held: ImageSource | None


def open_past(config: PretrainConfig, *, trust_code: bool) -> Past | None:
    """What the folder knows that the run starts from, where `--memory` is given and there is a head in that folder.

    The images are those of its memory; where it has none, they are chosen by herding among those that it learnt from.

    Raises:
        UsageError: if its head knows no classes, or it has neither a memory nor, any more, those images.
    """
    number, folder = config.options.get("memory"), config.pretrained
    if number is not None and number < 0:
        raise UsageError(f"--memory {number}: keep 0 images of each class, or more")
    if number is None or not isinstance(folder, str) or not Run(folder).head_files[0].is_file():
        return None
    head, name = load_head(folder, trust_code=trust_code)
    if isinstance(head, Ranked):
        raise UsageError(f"{folder} learns no classes, but to choose among names (head '{name}'): give it more of them"
                         " at prediction, --names; --memory is for heads of classes")  # fmt: skip
    if head.needs != "labels":
        raise UsageError(f"{folder} knows no classes, but {head.needs} (head '{name}'): --memory is for classes")
    run = Run(folder)
    if (run.memory / "train.csv").is_file():
        kept = FileListSource(run.memory / "train.csv")
        held = FileListSource(file) if (file := run.memory / "held.csv").is_file() else None
        return _past(head, torch.arange(len(kept)), Subset(kept, _first(kept, number)), held)
    before = PretrainConfig.from_dict(run.config(), origin=str(run.config_file))
    refuse_untrusted(code_of(before.data), origin=run.config_file, trust_code=trust_code, command="--trust-code")
    try:
        _, split = open_labelled(before.data, before.options, before.seed)
    except UsageError as error:
        raise UsageError(f"{folder} has no memory, and what it learnt from cannot be opened: {error}") from error
    source = split.train.source
    encoder = load_encoder(folder, image_size=config.image_size, trust_code=trust_code)
    with placed(encoder, config.accelerator):
        *_, index = exemplars(encoder, head, source, number, image_size=config.image_size) if number else [np.arange(0)]
    looked_at = head.model.index if isinstance(head, Neighbours) else torch.empty(0)
    return _past(head, looked_at, Subset(source, np.asarray(index)), split.held.source if split.held else None)


def _past(head: Any, looked_at: Tensor, kept: Subset, held: ImageSource | None) -> Past:
    """A head that looks at exemplars, of these positions, knows which of the images that are learnt from they are."""
    if isinstance(head, Neighbours):
        head.renumber(looked_at, torch.from_numpy(kept.positions))
    return Past(head, kept, held)


def recall(options: Mapping[str, Any], past: bool) -> tuple[Mapping[str, Any], list[str]]:
    """The options of a run on new classes, beside old ones if there is a `past`, and a sentence for each decision."""
    if not past:
        return options, []
    options, notes = dict(options), list[str]()
    if options["head"] is None:
        options["head"] = "mtn" if options["memory"] else "classify"
        kept = f"{options['memory']:,} images at most" if options["memory"] else "none"
        notes.append(f"head {options['head']}: of each old class, {kept} are learnt from again")
    if options["train"] is None:
        options["train"] = "head"
        notes.append("train head: old classes are to stay where they are")
    if options["memory"] and not options["class_weights"]:
        options["class_weights"] = True
        notes.append("class-weights: each class counts alike, however many of its images are kept")
    return options, notes


def keep(run: Run, encoder: Any, head: Any, split: Split, number: int, **options: Any) -> None:
    """Write the memory of a run: exemplars of each class, best first, and as many images that it was checked on.

    They are PNG files, twice as large as what the encoder sees or as they were, and lists of them with their labels.
    """
    *_, chosen = exemplars(encoder, head, split.train.source, number, **options)
    parts = [("train", split.train.source, chosen.tolist())]
    if split.held:
        parts.append(("held", split.held.source, _first(split.held.source, number).tolist()))
    for name, source, positions in parts:
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["path", "label"])
        for n, i in enumerate(positions):
            file = f"{name}-{n:05d}.png"
            try:
                opened = source.open(i)
                image = Image.fromarray(opened.decode(min(1.0, 2 * options["image_size"] / min(opened.size))))
            except Unreadable:  # of those that were held out; it is named in the log already
                continue
            write_atomically(run.memory / file, partial(image.save, format="PNG"))
            table.writerow([file, source.classes[source.labels[i]]])  # type: ignore[index]
        write_atomically(run.memory / f"{name}.csv", text.getvalue())


def _first(source: ImageSource, number: int) -> np.ndarray:
    """Positions of the first `number` images of each class."""
    labels = np.asarray(source.labels)
    return np.sort(np.concatenate([np.flatnonzero(labels == k)[:number] for k in np.unique(labels)]))
