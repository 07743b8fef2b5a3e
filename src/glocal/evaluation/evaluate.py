"""Open the data, keep training and test images apart, run the tasks."""

import inspect
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from glocal import random
from glocal.data import ClipSource, Subset, has_split, is_text, listed, open_source, open_texts, split_by as by_groups
from glocal.data.clips import as_clips
from glocal.data.folder import Listing
from glocal.data.source import ImageSource
from glocal.errors import UsageError, did_you_mean
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import Precision, suited
from glocal.evaluation.groups import PerImage, classes_listed, scores_by_group, with_groups
from glocal.evaluation.native import native_packing
from glocal.evaluation.registry import Task, all_tasks, find_task
from glocal.evaluation.split import held_out, same_classes
from glocal.progress import Progress

_LACKING = {
    "labels": "labels: a folder with one sub-folder per class, or a list file with a label column",
    "images": "images",
    "queries": "queries: queries.jsonl and qrels.json beside corpus.jsonl",
    "masks": "segmentation masks: folders images/ and masks/ with files of the same names",
}


@dataclass(frozen=True)
class Splits:
    """Two disjoint collections, and in words where the second comes from."""

    train: ImageSource
    test: ImageSource
    split: str


def open_splits(data: Any, seed: int = 0, split_by: str | None = None) -> Splits:
    """The train and test images of a data spec.

    `test` is used where there is one, else `val`, else a fifth of everything, stratified by label and fixed by `seed`;
    of clips whole videos, if there are several.

    Args:
        data: what `glocal.data.open_source` takes, or an open source. Texts are for both.
        seed: of the choice.
        split_by: a column of its groups, of which whole groups are held out, about a fifth of all images, whatever
            splits there are. A folder without the column "video" has a video in each of its folders.
    """
    if is_text(data):
        texts: Any = open_texts(data)
        return Splits(texts, texts, "all texts")
    data = listed(data)
    if split_by is not None:
        if split_by == "video" and isinstance(data, Listing) and data.groups is None:
            data = as_clips(data.root)
        everything = open_source(data, split="all")
        return Splits(
            *by_groups(everything, split_by, 0.2, seed), f"held-out fifth, whole groups by {split_by} (seed {seed})"
        )
    if has_split(data, "train"):
        for name in ("test", "val"):
            if has_split(data, name):
                train, test = open_source(data, split="train"), open_source(data, split=name)
                said = "test" if name == "test" else "val, there being no test split"
                return Splits(train, same_classes(train, test), said)
    everything = open_source(data)
    if isinstance(everything, ClipSource) and len(everything.clips()) > 1:
        return Splits(*by_groups(everything, "video", 0.2, seed), f"held-out fifth, whole videos (seed {seed})")
    labels = None if everything.labels is None else np.asarray(everything.labels)
    kept, held = held_out(len(everything), seed, "test", labels=labels)
    if len(held) == 0:  # an image or so of each class
        kept, held = held_out(len(everything), seed, "test")
    if len(held) == 0:
        raise UsageError(f"{everything.name} has {len(everything)} image(s), too few to hold some back for testing")
    return Splits(Subset(everything, kept), Subset(everything, held), f"held-out fifth (seed {seed})")


def limited(splits: Splits, limit: int, seed: int) -> Splits:
    """At most `limit` training and as many test images, chosen by `seed`; `UsageError` for fewer than one."""
    if limit < 1:
        raise UsageError(f"limit is {limit}; it must be at least 1")
    sides, said = {"train": splits.train, "test": splits.test}, splits.split
    for which, source in sides.items():
        if len(source) > limit:
            sides[which] = Subset(source, np.sort(random.permutation(len(source), seed, f"limit {which}")[:limit]))
            said = f"{splits.split}, {limit:,} images of each at most"
    return Splits(sides["train"], sides["test"], said)


def _lacks(source: ImageSource, task: Task) -> list[str]:
    """What the task needs and the images don't come with; what the source has never heard of, it does not have."""
    has = lambda need: source.has_masks if need == "masks" else getattr(source, need, None) is not None
    if is_text(source) and "queries" not in task.needs:
        return ["images"]
    return sorted(need for need in task.needs if not has(need))


def _check(name: str, task: Task, splits: Splits) -> None:
    for which, source in (("training", splits.train), ("test", splits.test)):
        if lacking := _lacks(source, task):
            needs = " and ".join(_LACKING.get(need, need + did_you_mean(need, _LACKING)) for need in lacking)
            raise UsageError(f"task '{name}' needs {needs}; the {which} images of {source.name} have none")
    train, test = (
        set() if source.labels is None else {*source.labels} - {-1} for source in (splits.train, splits.test)
    )
    if "labels" in task.needs and not train & test:
        raise UsageError(f"task '{name}': no test image of {splits.test.name} has a class that training images have")


def possible_tasks(data: Any) -> list[str]:
    """The names of the tasks that the data has labels or masks enough for, but for those that run on request only."""
    splits, usual = open_splits(data), {name: task for name, task in all_tasks().items() if not task.on_request}
    return [name for name, task in usual.items() if not (_lacks(splits.train, task) or _lacks(splits.test, task))]


def evaluate_encoder(
    backbone: nn.Module,
    data: Any,
    *,
    tasks: Iterable[str] = ("knn", "linear"),
    image_size: int | None = None,
    native: bool = False,
    batch_size: int = 128,
    workers: int | None = None,
    seed: int = 0,
    limit: int | None = None,
    split_by: str | None = None,
    precision: Precision | None = None,
    groups: str | Path | None = None,
    harmful: Sequence[str] = (),
    options: Mapping[str, Mapping[str, Any]] | None = None,
    each: dict[str, PerImage] | None = None,
    generator: Any = None,
    method: Callable[[], nn.Module] | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What a frozen encoder is worth on some data.

    Args:
        backbone: maps normalised (B, 3, h, w) to `Features`, with `.mean` and `.std`; used where it is.
        data: what `glocal.data.open_source` takes.
        tasks: names, see `glocal tasks`.
        image_size: side of the square given to the encoder, pixels; the backbone's own by default.
        native: give it whole photographs in their own shapes, with the area of that square.
        batch_size: images per forward pass.
        workers: loader processes; None: see `suited`.
        seed: of the held-out images and of every task's random choices.
        limit: look at no more than so many training and test images.
        split_by: hold out whole groups, see `open_splits`.
        precision: of the features; None: see `suited`.
        groups: a table of what images share (`glocal.data.filelist.read_groups`), here or in the data's folder, in
            place of the groups that the data comes with.
        harmful: classes that the likeliest labels of an image should not meet, or a file with one a line.
        options: task name → its keyword arguments, e.g. {"knn": {"k": 200}}.
        generator: of the run that the encoder is of, where it has one.
        method: opens the whole method of that run.
        each: receives, by task, what it says of each test image.
        progress: called as progress(what, done, total).

    Returns:
        Task name → its scores, e.g. {"knn": {"top1": .71, ...}, "meta": {...}}; JSON-serialisable. Why others have none
        says meta["unscored"]. Of images with groups, a task that scores each image also has "groups", and "harmful".

    Raises:
        UsageError: for an unknown task, or if no task can be scored: the data lacks labels or masks, for example.
    """
    found = {name: find_task(name) for name in tasks}
    options = options or {}
    if unused := set(options) - set(found):
        raise UsageError(f"options given for '{min(unused)}', which is not among the tasks ({', '.join(found)})")
    for name, given in options.items():
        known = [parameter for parameter in inspect.signature(found[name].run).parameters if parameter != "context"]
        if unknown := set(given) - set(known):
            raise UsageError(f"task '{name}' has no option '{min(unknown)}' (it has: {', '.join(known) or 'none'})")
    splits = open_splits(data, seed, split_by)
    if groups is not None:
        inside = Path(data) / groups if isinstance(data, str | Path) else Path(groups)
        table = inside if inside.is_file() and not Path(groups).is_file() else Path(groups)
        train, test = with_groups(splits.train, splits.test, table)
        splits = replace(splits, train=train, test=test)
    if harmful and not splits.test.groups:
        raise UsageError("--harmful is a share of each group's images: give --groups FILE, too")
    avoided = classes_listed(harmful, splits.test.classes)
    if limit is not None and not is_text(splits.train):
        splits = limited(splits, limit, seed)
    size = int(image_size or backbone.image_size)  # type: ignore[arg-type]
    workers, precision = suited(backbone, workers, precision)
    context = EvalContext(backbone, splits.train, splits.test, size, batch_size, workers, seed, precision, progress)
    context.generator, context.method = generator, method
    if native:
        native_packing(backbone, size)  # refuses an encoder that cannot
        context.native = True
    scores: dict[str, Any] = {}
    seconds, unscored = {}, {}
    for name, task in found.items():
        started = time.perf_counter()
        try:
            _check(name, task, splits)
            if native and task.squares:
                raise UsageError(f"task '{name}' looks at squares of its own making: leave out --native")
            context.each = None
            scores[name] = task(context, **options.get(name, {}))
            if context.each is not None:
                if each is not None:
                    each[name] = context.each
                better = task.higher_is_better
                scores[name] |= scores_by_group(context.each, splits.test, avoided, seed=seed, higher_is_better=better)
            elif groups is not None:
                unscored[f"{name} by group"] = "it gives no score to each image"
        except UsageError as error:  # costs no other task its score
            unscored[name] = str(error)
        seconds[name] = round(time.perf_counter() - started, 2)
    if harmful and not any("harmful" in found for found in scores.values()):
        unscored["harmful"] = "it needs a task that labels images, linear"
    if unscored and not scores:
        raise UsageError("; ".join(dict.fromkeys(unscored.values())))
    meta = {
        "encoder": getattr(backbone, "name", type(backbone).__name__),
        "data": splits.train.name,
        "split": splits.split,
        "image_size": size,
        "native": native,
        "n_train": len(splits.train),
        "n_test": len(splits.test),
        "skipped": sorted({key for key, _ in context.skipped}),
        "seed": seed,
        "precision": precision,
        "seconds": seconds,
        "unscored": unscored,
    }
    return scores | {"meta": meta}
