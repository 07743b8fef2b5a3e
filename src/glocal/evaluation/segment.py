"""Frozen segmentation: a 1×1 convolution on standardised dense features, scored by mean intersection over union.

A 1×1 convolution commutes with bilinear upsampling, so training it on upsampled logits against full-resolution masks is
softmax regression on bilinearly interpolated features, an example per mask pixel. Training draws such pixels at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.probe import Probes, Standardise, best
from glocal.evaluation.registry import task
from glocal.evaluation.split import held_out

IGNORE = 255
LRS = (0.1, 0.3, 1.0, 3.0, 10.0)  # high ones reach the directions in which features hardly vary


@dataclass(frozen=True)
class Classes:
    """Which mask values are classes, and their numbers.

    Attributes:
        names: K names.
        table: (256,) uint8, mask value to class number; `IGNORE` elsewhere.
    """

    names: list[str]
    table: np.ndarray

    @classmethod
    def of(cls, source: ImageSource, masks: Sequence[np.ndarray]) -> Classes:
        """From what the collection says of its masks, or else from the values that occur in `masks`."""
        names = source.mask_classes
        found = range(len(names)) if names else np.unique(np.concatenate([np.unique(mask) for mask in masks]))
        values = [int(value) for value in found if value not in (IGNORE, source.ignore_index)]
        if len(values) < 2:
            raise UsageError(
                f"the masks of {source.name} hold {len(values)} class(es) besides the ignored one; segment needs two"
            )
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[values] = np.arange(len(values))
        return cls([names[value] if names else str(value) for value in values], table)


class Scenes:
    """Dense features and masks, addressed by mask pixel.

    Args:
        maps: (N, H, W, D), in memory location by location.
        masks: N arrays (h_i, w_i) uint8 of class numbers, `IGNORE` where none.
    """

    def __init__(self, maps: Tensor, masks: list[np.ndarray]) -> None:
        self.maps, self.masks = maps, masks
        self._sizes = np.array([mask.shape[::-1] for mask in masks])
        self._flat = np.concatenate([mask.ravel() for mask in masks])
        self._starts = np.cumsum(self._sizes.prod(1)) - self._sizes.prod(1)

    def sample(self, u: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features and classes of random mask pixels.

        Args:
            u: (M, 3) uniform numbers: which image, how far right, how far down.
            rows: (R,) the images to draw from.

        Returns:
            (M', D) float32 and (M',) int64, without the ignored pixels. A feature is what bilinear upsampling of the
            map to the mask's size (`align_corners=False`) holds at that pixel.
        """
        images = rows[(u[:, 0] * len(rows)).astype(np.int64)]
        sizes = self._sizes[images]
        pixel = (u[:, 1:] * sizes).astype(np.int64)
        truth = self._flat[self._starts[images] + pixel[:, 1] * sizes[:, 0] + pixel[:, 0]]
        real = truth != IGNORE
        return self._at(images[real], (pixel[real] + 0.5) / sizes[real]), torch.from_numpy(truth[real].astype(np.int64))

    def _at(self, images: np.ndarray, place: np.ndarray) -> Tensor:
        """Bilinear features (M, D) at places (M, 2) in [0, 1], (x, y)."""
        _, height, width, dim = self.maps.shape
        cells = np.array([width, height])
        place = np.clip(place * cells - 0.5, 0, cells - 1)
        low = place.astype(np.int64)
        high = np.minimum(low + 1, cells - 1)
        x, y = np.stack([low[:, 0], high[:, 0]], 1)[:, None, :], np.stack([low[:, 1], high[:, 1]], 1)[:, :, None]
        corners = (images[:, None, None] * height + y) * width + x  # (M, 2, 2)
        right, down = (np.stack([1 - part, part], 1) for part in (place - low).T)
        weights = torch.from_numpy(down[:, :, None] * right[:, None, :]).float().reshape(-1, 1, 4)
        around = self.maps.reshape(-1, dim)[torch.from_numpy(corners.reshape(-1))].float()
        return (weights @ around.reshape(-1, 4, dim)).squeeze(1)


@dataclass(frozen=True)
class Training:
    """How long to train: `steps` steps of `batch_size` pixels, on `device`, in the order that `seed` gives."""

    steps: int
    batch_size: int
    seed: int
    device: torch.device


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
    """Intersection over union (..., K) of counts (..., K, K), float64; NaN for one neither present nor predicted."""
    counts = counts.double()
    hit = counts.diagonal(dim1=-2, dim2=-1)
    return hit / (counts.sum(-2) + counts.sum(-1) - hit)


def statistics(maps: Tensor, rows: np.ndarray, device: torch.device) -> Standardise:
    """Mean and deviation of each channel over all cells of some maps (N, H, W, D)."""
    moments = torch.zeros(2, maps.shape[-1], dtype=torch.float64)
    for batch in torch.from_numpy(rows).split(16):
        x = maps[batch].to(device).float().flatten(0, 2)
        moments += torch.stack([x.mean(0), x.square().mean(0)]).double().cpu() * len(batch)
    mean, square = moments / len(rows)
    deviation = ((square - mean.square()).clamp_min(0) + 1e-5).sqrt()
    return Standardise(mean.float().to(device), deviation.float().to(device))


def train_segmenters(
    scenes: Scenes, rows: np.ndarray, classes: int, settings: Sequence[tuple[float, float]], training: Training
) -> tuple[Standardise, Probes]:
    """One 1×1 convolution per (lr, wd), all at once, each the same as if trained alone.

    Args:
        scenes: features and masks.
        rows: the images to learn from.
        classes: K.
        settings: G pairs (learning rate, weight decay).
        training: how long.
    """
    standardise = statistics(scenes.maps, rows, training.device)
    probes = Probes(settings, scenes.maps.shape[-1], classes, training.device)
    numbers = np.arange(training.batch_size)
    for step in range(training.steps):
        x, y = scenes.sample(random.uniform(training.seed, "segment", step, numbers, n=3), rows)
        if len(x):
            targets = F.one_hot(y, classes).float()
            probes.learn(standardise(x.to(training.device)), targets.to(training.device), step / training.steps)
    return standardise, probes


@torch.inference_mode()
def count_confusions(
    probes: Probes, standardise: Standardise, scenes: Scenes, rows: Sequence[int], device: torch.device
) -> Tensor:
    """Confusion counts (G, K, K) over some images, each at its mask's own resolution."""
    counts = torch.zeros(len(probes.settings), probes.classes, probes.classes, dtype=torch.int64)
    for i in rows:
        truth = torch.from_numpy(scenes.masks[i]).to(device)
        logits = probes.logits(standardise(scenes.maps[i].to(device).float()).flatten(0, 1))
        small = logits.permute(1, 2, 0).unflatten(2, scenes.maps.shape[1:3])
        predicted = F.interpolate(small, size=truth.shape, mode="bilinear", align_corners=False).argmax(1)
        counts += torch.stack([confusion(p, truth, probes.classes).cpu() for p in predicted])
    return counts


def _gather(context: EvalContext, source: ImageSource) -> tuple[Tensor, list[np.ndarray]]:
    """Maps (N, H, W, D) and raw masks of the images whose pixels and mask can both be read."""
    bank = context.extract(source, crop_pct=None, dense=True)
    assert bank.dense is not None
    masks: dict[int, np.ndarray] = {}
    for row, i in enumerate(bank.index.tolist()):
        try:
            masks[row] = source.mask(i)
        except Unreadable as error:
            bank.skipped.append((f"mask of {source.key(i)}", str(error)))
    context.skipped.extend(bank.skipped)
    if not masks:
        raise UsageError(f"none of the masks of {source.name} can be read ({bank.skipped[0][1]})")
    maps = bank.dense.permute(0, 2, 3, 1).contiguous()
    return (maps if len(masks) == len(maps) else maps[list(masks)]), list(masks.values())


@task(
    needs={"masks"},
    title="Segmentation",
    main="miou",
    words={"miou": "mean IoU", "pixel_accuracy": "pixel accuracy", "iou": "IoU of each class"},
    shares={"miou": "pixels", "pixel_accuracy": "pixels", "iou": "pixels"},
)
def segment(
    context: EvalContext,
    *,
    lrs: Sequence[float] = LRS,
    weight_decay: float = 0.0,
    steps: int = 2000,
    batch_size: int = 512,
) -> dict:
    """Mean IoU of a linear classifier of every location, on frozen dense features.

    The whole image is squeezed into the square, the map has the encoder's own output stride, and the score is taken at
    the masks' full resolution. The learning rate is chosen on a held-out fifth of the training images; then one
    classifier is trained on all of them and tested once.

    Returns:
        miou and pixel_accuracy on the test images; iou per class (None: neither present nor predicted); the chosen lr;
        validation_miou; output_stride in pixels.
    """
    maps, raw = _gather(context, context.train)
    classes = Classes.of(context.train, raw)
    scenes = Scenes(maps, [classes.table[mask] for mask in raw])
    count = len(classes.names)
    kept, held = held_out(len(raw), context.seed, "segment")
    if len(held) == 0:
        raise UsageError("segment needs at least two training images, to choose its learning rate on")
    settings = [(lr, weight_decay) for lr in lrs]
    training = Training(steps, batch_size, context.seed, context.device)
    standardise, probes = train_segmenters(scenes, kept, count, settings, training)
    scores = iou(count_confusions(probes, standardise, scenes, held.tolist(), context.device)).nanmean(1)
    chosen = best(scores, probes.finite())

    standardise, probe = train_segmenters(scenes, np.arange(len(raw)), count, [settings[chosen]], training)
    maps, raw = _gather(context, context.test)
    test = Scenes(maps, [classes.table[mask] for mask in raw])
    (counts,) = count_confusions(probe, standardise, test, range(len(raw)), context.device)
    per_class = iou(counts)
    return {
        "miou": float(per_class.nanmean()),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum().clamp_min(1)),
        "iou": {n: None if v != v else v for n, v in zip(classes.names, per_class.tolist(), strict=True)},
        "lr": settings[chosen][0],
        "validation_miou": float(scores[chosen]),
        "output_stride": context.image_size / maps.shape[2],
    }
