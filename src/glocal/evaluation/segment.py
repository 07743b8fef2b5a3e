"""Frozen segmentation: a 1×1 convolution on standardised dense features, scored by mean intersection over union."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from glocal import random
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.evaluation.exam import Exam
from glocal.evaluation.extract import Bank
from glocal.evaluation.probe import Grid, Probes, Standardise, best
from glocal.evaluation.registry import task
from glocal.evaluation.split import held_out

IGNORE = 255
LRS = (0.01, 0.03, 0.1)
WDS = (0.0, 1e-3)
_UPSAMPLE = 4  # training resolution, in pixels per feature cell and side


@dataclass(frozen=True)
class Classes:
    """Which mask values are classes, and their numbers.

    Attributes:
        values: K mask values, sorted.
        names: K names.
        table: (256,) uint8, mask value to class number; `IGNORE` elsewhere.
    """

    values: list[int]
    names: list[str]
    table: np.ndarray

    @classmethod
    def of(cls, source: ImageSource, masks: Sequence[np.ndarray]) -> Classes:
        """From what the collection says of its masks, or else from the values that occur in `masks`."""
        names = source.mask_classes
        ignored = {IGNORE, source.ignore_index}
        found = (
            range(len(names)) if names else np.flatnonzero(sum(np.bincount(m.ravel(), minlength=256) for m in masks))
        )
        values = [int(value) for value in found if value not in ignored]
        if len(values) < 2:
            raise UsageError(
                f"{source.name}: its masks hold {len(values)} class besides the ignored value, two are needed"
            )
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[values] = np.arange(len(values))
        return cls(values, [names[v] if names else str(v) for v in values], table)


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts (K, K), truth by prediction, of the pixels whose truth is a class (below K).

    Args:
        predicted: integers in 0..K-1, any shape.
        truth: same shape; values of K and above are ignored.
    """
    keep = truth < classes
    flat = truth[keep].long() * classes + predicted[keep].long()
    return torch.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def iou(counts: Tensor) -> Tensor:
    """Intersection over union per class (K,) float64 from counts (K, K); NaN for a class neither present nor predicted."""
    counts = counts.double()
    hit = counts.diagonal()
    return hit / (counts.sum(0) + counts.sum(1) - hit)


def _statistics(maps: Tensor, rows: Sequence[int], device: torch.device) -> Standardise:
    """Mean and deviation of each channel over all locations of these maps, as a batch norm would converge to."""
    total, square, count = torch.zeros(2, 0), None, 0
    for batch in torch.as_tensor(rows).split(64):
        x = maps[batch].to(device).transpose(0, 1).flatten(1).double()
        first, second = x.sum(1), x.square().sum(1)
        total, square = (first, second) if square is None else (total + first, square + second)
        count += x.shape[1]
    mean = total / count
    variance = (square / count - mean.square()).clamp_min(0)
    return Standardise(mean.float(), (variance + 1e-5).sqrt().float())


def _logits(probes: Probes, standardise: Standardise, maps: Tensor) -> Tensor:
    """(G, B, K, H, W) from maps (B, D, H, W)."""
    x = standardise(maps.float().movedim(1, -1))
    return probes.logits(x.flatten(0, 2)).unflatten(0, x.shape[:3]).permute(3, 0, 4, 1, 2)


def train_segmenters(
    maps: Tensor,
    masks: Sequence[np.ndarray],
    rows: np.ndarray,
    classes: int,
    settings: Sequence[tuple[float, float]],
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    device: torch.device,
) -> tuple[Standardise, Probes]:
    """One 1×1 convolution per (lr, wd), all at once, on the cross-entropy of bilinearly upsampled logits.

    Args:
        maps: (N, D, H, W) dense features.
        masks: N arrays of class numbers, `IGNORE` where none, at any resolution.
        rows: which images to train on.
        classes: K.
        settings: G pairs (learning rate, weight decay).
        epochs: passes over the images, under one cosine.
        batch_size: images per step.
        seed: of the order.
        device: where to train.
    """
    height, width = maps.shape[-2] * _UPSAMPLE, maps.shape[-1] * _UPSAMPLE
    targets = torch.from_numpy(
        np.stack([Image.fromarray(masks[i]).resize((width, height), Image.Resampling.NEAREST) for i in rows])
    )
    standardise = _statistics(maps, rows.tolist(), device)
    probes = Probes(settings, maps.shape[1], classes, device)
    where = torch.from_numpy(rows)
    steps, done = epochs * -(-len(rows) // batch_size), 0
    for epoch in range(epochs):
        for chosen in torch.from_numpy(random.permutation(len(rows), seed, "segment", epoch)).split(batch_size):
            batch = standardise(maps[where[chosen]].to(device).float().movedim(1, -1))
            x = batch.flatten(0, 2)
            logits = probes.logits(x).detach().requires_grad_()
            small = logits.unflatten(0, batch.shape[:3]).permute(3, 0, 4, 1, 2).flatten(0, 1)
            large = F.interpolate(small, size=(height, width), mode="bilinear", align_corners=False)
            truth = targets[chosen].to(device).long().repeat(len(settings), 1, 1)
            valid = max(1, int((targets[chosen] != IGNORE).sum()))
            loss = F.cross_entropy(large, truth, ignore_index=IGNORE, reduction="sum") / valid
            (error,) = torch.autograd.grad(loss, logits)
            probes.step((x.T @ error.flatten(1)).unflatten(1, error.shape[1:]), error.sum(0), done / steps)
            done += 1
    return standardise, probes


@torch.inference_mode()
def score_segmenters(
    probes: Probes,
    standardise: Standardise,
    maps: Tensor,
    masks: Sequence[np.ndarray],
    rows: Sequence[int],
    device: torch.device,
) -> Tensor:
    """Confusion counts (G, K, K) over these images, each at its mask's own resolution."""
    counts = torch.zeros(len(probes.settings), probes.classes, probes.classes, dtype=torch.int64)
    for i in rows:
        truth = torch.from_numpy(masks[i]).to(device)
        small = _logits(probes, standardise, maps[i : i + 1].to(device)).squeeze(1)
        predicted = F.interpolate(small, size=truth.shape, mode="bilinear", align_corners=False).argmax(1)
        counts += torch.stack([confusion(p, truth, probes.classes).cpu() for p in predicted])
    return counts


def _masks(source: ImageSource, bank: Bank) -> list[np.ndarray]:
    return [np.asarray(source.mask(int(i)), dtype=np.uint8) for i in bank.index]


@task(needs="masks")
def segment(
    exam: Exam,
    *,
    lrs: Sequence[float] = LRS,
    wds: Sequence[float] = WDS,
    epochs: int = 20,
    batch_size: int = 16,
) -> dict:
    """Mean IoU of a linear classifier of every location, on frozen dense features at the encoder's own output stride.

    The whole image is squeezed into the square; the score is taken at the mask's full resolution. The learning rate and
    weight decay are chosen on a held-out fifth of the training images; the test images are used once.

    Returns:
        miou and pixel_accuracy on the test images; iou per class; the chosen lr and wd; validation_miou; output_stride.
    """
    train, test = (exam.extract(source, crop_pct=None, dense=True) for source in (exam.train, exam.test))
    assert train.dense is not None and test.dense is not None
    raw = _masks(exam.train, train)
    classes = Classes.of(exam.train, raw)
    masks = [classes.table[mask] for mask in raw]
    count, device = len(classes.values), exam.on_device(train.pooled[:0]).device
    kept, held = held_out(len(masks), exam.seed, "segment")
    if len(held) == 0:
        raise UsageError("segment needs at least two training images, to choose its learning rate on")
    grid = Grid(lrs, wds).settings
    options = {"epochs": epochs, "batch_size": batch_size, "seed": exam.seed, "device": device}
    standardise, probes = train_segmenters(train.dense, masks, kept, count, grid, **options)
    counts = score_segmenters(probes, standardise, train.dense, masks, held.tolist(), device)
    scores = torch.stack([iou(c).nanmean() for c in counts])
    finite = probes.weight.isfinite().all(2).all(0).cpu()
    chosen = best(scores, torch.where(finite, 0.0, torch.inf))

    everything = np.arange(len(masks))
    standardise, probe = train_segmenters(train.dense, masks, everything, count, [grid[chosen]], **options)
    truth = [classes.table[mask] for mask in _masks(exam.test, test)]
    (counts,) = score_segmenters(probe, standardise, test.dense, truth, range(len(truth)), device)
    per_class = iou(counts)
    return {
        "miou": float(per_class.nanmean()),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum()),
        "iou": {name: None if torch.isnan(v) else float(v) for name, v in zip(classes.names, per_class, strict=True)},
        "lr": grid[chosen][0],
        "wd": grid[chosen][1],
        "validation_miou": float(scores[chosen]),
        "output_stride": exam.image_size / train.dense.shape[-1],
    }
