"""`OnlineEval`: what a run looks at every few epochs while it trains."""

from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glocal import random
from glocal.data import ClipSource, ImageSource, Subset
from glocal.data.source import Unreadable
from glocal.diagnostics.collapse import check_features, within_clips
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.baseline import Pixels
from glocal.evaluation.extract import CROP_PCT, stream
from glocal.evaluation.groups import PerImage
from glocal.evaluation.knn import knn_predict, nearest_neighbours
from glocal.evaluation.rank import rankme
from glocal.evaluation.ridge import moments, ridge
from glocal.evaluation.segment import IGNORE, Classes
from glocal.evaluation.split import held_out
from glocal.training.stopping import Harmed

IMAGES = 1000  # at most so many training images are looked at
CELLS = 4  # at most so many different cells of each map enter the rank of dense features
MORE_CELLS = 16_000  # in all enter a guard's score of them
FOLDS, PENALTIES = 5, (0.01, 0.1, 1.0)  # of the read-out of cells, by `ridge`
CLIPS, FRAMES = 40, 6  # at most so many clips are compared, by so many frames of each
CROPPED = 300  # of so many images a guard takes two crops, where it has neither labels nor masks


@dataclass(frozen=True)
class Look:
    """What was seen of an encoder: numbers for the log and, for a guard, what each image adds to each score.

    Of features that have collapsed a guard is told why in `collapse`, "" of others: it knows how the run began.
    """

    numbers: dict[str, float]
    each: dict[str, PerImage] = field(default_factory=dict)
    collapse: str = ""


@dataclass(frozen=True)
class Seen:
    """Pooled features (N, D), S cells of each map (N, S, D), where they look in the crop (N, S, 2), the images (N,)."""

    pooled: Tensor
    dense: Tensor
    places: Tensor
    index: Tensor


class OnlineEval:
    """Online kNN accuracy, where the training images have labels, and effective rank of pooled and dense features.

    Looks at a fixed sample of the *training* images only, at their centre crop of `image_size` pixels; a fifth of it is
    classified by the rest. No test image is seen before training ends. Of clips also how much of the features is of the
    clip, how much of the frame (`within_clips`).

    For a guard, "knn", where there are labels: each image is classified by all others, by its pooled feature. "cells",
    where there are masks: the share of their classes' variance that `read_out` explains. Without either,
    "stability" and "correspond", the tasks of these names, on some of the sample.

    A diagnosis says which of the run's `options` helps.
    """

    def __init__(
        self, source: ImageSource, *, image_size: int, seed: int, guard: bool = False, options: Collection[str] = ()
    ) -> None:
        chosen = np.sort(random.permutation(len(source), seed, "watch")[:IMAGES])
        self.sample, self.image_size, self.seed, self.guard = Subset(source, chosen), image_size, seed, guard
        self.truth: Tensor | None = None
        self.clips = _frames_of_clips(source, seed) if isinstance(source, ClipSource) else None
        self.pixels: float | None = None
        self.options = options

    def __call__(self, encoder: nn.Module, epoch: int, *, paints: bool = False) -> Look:
        """What is seen of an encoder; without a guard `Harmed`, with the diagnosis, if its features have collapsed.

        One that images can be made from (it `paints`) may use few dimensions.
        """
        seen = self.features(encoder)
        pooled, dense = seen.pooled, seen.dense[:, :CELLS].flatten(0, 1)
        diagnosis = check_features(pooled, dense if len(dense) > len(pooled) else None)
        finite, collapse = bool(seen.pooled.isfinite().all() and seen.dense.isfinite().all()), ""
        if diagnosis is not None and not (paints and finite):
            collapse = f"stopped after epoch {epoch}: {diagnosis.told(self.options)}"
            if not (self.guard and finite):
                raise Harmed(collapse)
        numbers = {"rank_pooled": rankme(pooled), "rank_dense": rankme(dense)}
        if self.sample.labels is not None:
            labels = torch.from_numpy(self.sample.labels)[seen.index]
            bank, queries = held_out(len(labels), self.seed, "watch", labels=labels.numpy())
            predicted = knn_predict(pooled[queries], pooled[bank], labels[bank])
            numbers["knn_top1"] = float((predicted == labels[queries]).float().mean())
        if self.clips is not None:
            numbers["clips/within"], numbers["clips/same"] = self.by_clip(encoder)
            if self.pixels is None:  # the same at every look
                self.pixels = self.by_clip(Pixels(image_size=self.image_size))[0]
            numbers["clips/pixels"] = self.pixels
        return Look(numbers, self.scores(encoder, seen) if self.guard else {}, collapse)

    def by_clip(self, encoder: nn.Module) -> tuple[float, float]:
        """`within_clips` of the sample of clips."""
        assert self.clips is not None
        found = list(stream(encoder, self.clips, image_size=self.image_size, batch_size=64))
        index = torch.cat([index for index, _ in found])
        groups: Any = self.clips.groups
        of = torch.from_numpy(groups["video"].of)[index]
        return within_clips(torch.cat([features.pooled.float().cpu() for _, features in found]), of)

    def features(self, encoder: nn.Module) -> Seen:
        """Features of the sample, dense ones of a few cells of each image."""
        found: list[tuple[Tensor, ...]] = []
        batches: Any = stream(encoder, self.sample, image_size=self.image_size, batch_size=64)
        for index, features in batches:
            tokens, rows = features.tokens.float().cpu(), torch.arange(len(index))[:, None]
            order = random.uniform(self.seed, "watch cells", index.numpy(), n=tokens.shape[1]).argsort(1)
            cells = torch.from_numpy(order[:, : MORE_CELLS // len(self.sample) if self.guard else CELLS])
            places = features.positions.float().cpu().expand(len(index), -1, -1)
            found.append((features.pooled.float().cpu(), tokens[rows, cells], places[rows, cells], index))
        return Seen(*(torch.cat(parts) for parts in zip(*found, strict=True)))

    def scores(self, encoder: nn.Module, seen: Seen) -> dict[str, PerImage]:
        """What each image adds to the scores that a guard goes by."""
        found, index = {}, seen.index.numpy()
        if self.sample.labels is not None:
            labels = torch.from_numpy(self.sample.labels)[seen.index]
            found["knn"] = PerImage.mean("knn", index, agree(seen.pooled, labels))
        if self.sample.has_masks:
            truth = self.classes_at(seen)
            found["cells"] = PerImage("cells", index, read_out(seen.dense, truth).numpy())
        context = EvalContext(encoder, self.sample, self.sample, self.image_size, seed=self.seed)
        for name in () if found else ("stability", "correspond"):
            find_task(name)(context, images=CROPPED)
            assert context.each is not None
            found[name] = context.each
        return found

    def classes_at(self, seen: Seen) -> Tensor:
        """The classes (N, S) int64 of the masks where the cells look, in the centre crop; `IGNORE` where none."""
        if self.truth is None:  # the same at every look
            masks: dict[int, np.ndarray] = {}
            for row, i in enumerate(seen.index.tolist()):
                with suppress(Unreadable):
                    masks[row] = self.sample.mask(i)
            table = Classes.of(self.sample, list(masks.values())).table
            classes = np.full(seen.places.shape[:2], IGNORE)
            for row, mask in masks.items():
                sides = np.array(mask.shape[::-1])
                away = seen.places[row].double().numpy() - self.image_size / 2
                at = sides / 2 + away * min(sides) * CROP_PCT / self.image_size
                x, y = np.clip(at.astype(np.int64), 0, sides - 1).T
                classes[row] = table[mask[y, x]]
            self.truth = torch.from_numpy(classes).long()
        return self.truth


def _frames_of_clips(source: ClipSource, seed: int) -> Subset | None:
    """Some frames of some clips, spread evenly over each; None of fewer than two clips."""
    clips = source.clips()
    if len(clips) < 2:
        return None
    chosen = [clips[k] for k in random.permutation(len(clips), seed, "watch clips")[:CLIPS]]
    frames = [np.unique(np.linspace(clip.start, clip.stop - 1, FRAMES).astype(int)) for clip in chosen]
    return Subset(source, np.concatenate(frames))


def agree(features: Tensor, labels: Tensor, *, k: int = 20, t: float = 0.07) -> Tensor:
    """Whether the weighted vote of the nearest other features, (N,), is for a feature's own class.

    Args:
        features: (N, D).
        labels: (N,) int64 classes.
        k: neighbours.
        t: temperature of the votes, as in `knn_predict`.
    """
    similarity, position = nearest_neighbours(features, features, min(k + 1, len(features)))
    votes = (similarity / t).exp() * (position != torch.arange(len(features))[:, None])
    total = votes.new_zeros(len(features), int(labels.max()) + 1).scatter_add_(1, labels[position], votes)
    return total.argmax(1) == labels


def read_out(dense: Tensor, truth: Tensor) -> Tensor:
    """How well a linear read-out, learnt on four fifths of the images in turn, tells classes of cells of the others.

    It is ridge regression on one number for each class, 1 in its cells and 0 in others, with the best of `PENALTIES`.
    Which class is the likeliest is not asked, as a mean IoU would: an answer that is nearly right, or just so, counts
    for what it is, so that far fewer images show the same difference.

    Args:
        dense: (N, S, D), features of S cells of each image.
        truth: (N, S) int64 their classes; `IGNORE` of those that nothing is learnt from.

    Returns:
        Of each image (N, 2) float64 the variance of classes that is explained, and all of it, both in shares of what
        all images have of the same class, so that classes count alike.
    """
    told = truth != IGNORE
    classes = nn.functional.one_hot(truth.where(told, 0)).float()
    predicted = torch.zeros(len(PENALTIES), *classes.shape)
    folds = [torch.arange(len(dense)) % FOLDS == k for k in range(FOLDS)]
    known = [told & own[:, None] for own in folds]
    learnt = torch.stack([moments(dense[of], classes[of]) for of in known])
    for own, of_own in zip(folds, learnt, strict=True):
        others = learnt.sum(0) - of_own
        if others[-1, -1]:  # cells
            fits = ridge(others, dense.shape[2], PENALTIES)
            predicted[:, own] = torch.stack([dense[own] @ weight + bias for weight, bias in fits])
    squares = lambda error: (error.double() ** 2 * told[..., None]).sum(1)
    spread = squares(classes - classes[told].mean(0))
    share = torch.where(spread.sum(0) > 0, 1 / spread.sum(0), 0)
    explained = max(((spread - squares(classes - each)) @ share for each in predicted), key=lambda each: each.sum())
    return torch.stack([explained, spread @ share], 1)
