"""Frozen segmentation: a 1×1 convolution on standardised dense features, scored by mean intersection over union.

It commutes with bilinear interpolation, so training it on enlarged logits against full-resolution masks is softmax
regression on interpolated features, an example per mask pixel, drawn at random. Interpolation is between the places
where cells really look (`Backbone.cells`): a ResNet's are half a cell off the uniform grid.
"""

import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal import random
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.groups import PerImage
from glocal.evaluation.probe import Probes, Standardise, best
from glocal.evaluation.registry import task
from glocal.evaluation.split import held_out

Looks = list[np.ndarray]
"""Where columns (W,) and rows (H,) of cells look, as fractions of an image's sides, ascending."""
IGNORE = 255
LRS = (0.1, 0.3, 1.0, 3.0, 10.0)  # high ones reach the directions in which features hardly vary


@dataclass(frozen=True)
class Classes:
    """K names of classes, and a table (256,) uint8 of their numbers by mask value; `IGNORE` for the others."""

    names: list[str]
    table: np.ndarray

    @classmethod
    def of(cls, source: ImageSource, masks: Sequence[np.ndarray]) -> Self:
        """From what the collection says of its masks, or else from the values that occur in `masks`."""
        names = source.mask_classes
        found = range(len(names)) if names else np.unique(np.concatenate([np.unique(mask) for mask in masks]))
        values = [int(value) for value in found if value not in (IGNORE, source.ignore_index)]
        if len(values) < 2:
            few = f"{len(values)} class(es) besides the ignored one; segment needs two"
            raise UsageError(f"the masks of {source.name} hold {few}")
        table = np.full(256, IGNORE, dtype=np.uint8)
        table[values] = np.arange(len(values))
        return cls([names[value] if names else str(value) for value in values], table)


class Scenes:
    """Dense features and masks, addressed by mask pixel.

    Args:
        maps: N maps (H, W, D), of one shape or of several.
        masks: N arrays (h_i, w_i) uint8 of class numbers, `IGNORE` where none.
        looks: of each map, where columns (W,) and rows (H,) of cells look, as fractions of the image's sides,
            ascending.
    """

    def __init__(self, maps: Sequence[Tensor], masks: list[np.ndarray], looks: Sequence[Looks]) -> None:
        self.maps, self.masks, self.looks = maps, masks, looks
        self._grids = np.array([map_.shape[1::-1] for map_ in maps])
        self._firsts = np.cumsum(self._grids.prod(1)) - self._grids.prod(1)
        self._cells = maps.flatten(0, 2) if isinstance(maps, Tensor) else torch.cat([x.flatten(0, 1) for x in maps])
        self._sizes = np.array([mask.shape[::-1] for mask in masks])
        self._flat = np.concatenate([mask.ravel() for mask in masks])
        self._starts = np.cumsum(self._sizes.prod(1)) - self._sizes.prod(1)

    def sample(self, u: np.ndarray, rows: np.ndarray) -> tuple[Tensor, Tensor]:
        """Features (M', D) float32 and classes (M',) int64 of random mask pixels, without the ignored ones.

        A feature is interpolated bilinearly between the cells that look around the pixel's centre; beyond the outermost
        ones it is theirs.

        Args:
            u: (M, 3) uniform numbers: which image, how far right, how far down.
            rows: (R,) the images to draw from.
        """
        images = rows[(u[:, 0] * len(rows)).astype(np.int64)]
        sizes = self._sizes[images]
        pixel = (u[:, 1:] * sizes).astype(np.int64)
        truth = self._flat[self._starts[images] + pixel[:, 1] * sizes[:, 0] + pixel[:, 0]]
        real = truth != IGNORE
        return self._at(images[real], (pixel[real] + 0.5) / sizes[real]), torch.from_numpy(truth[real].astype(np.int64))

    def _at(self, images: np.ndarray, place: np.ndarray) -> Tensor:
        """Bilinear features (M, D) at places (M, 2) in [0, 1], (x, y)."""
        grids, dim = self._grids[images], self._cells.shape[1]
        ends = np.array([[(look[0], look[-1]) for look in looks] for looks in self.looks])[images]  # (M, 2, 2)
        step = (ends[..., 1] - ends[..., 0]) / np.maximum(grids - 1, 1)
        place = ((place - ends[..., 0]) / np.where(step > 0, step, 1)).clip(0, grids - 1)
        low = place.astype(np.int64)
        high = np.minimum(low + 1, grids - 1)
        x, y = np.stack([low[:, 0], high[:, 0]], 1)[:, None, :], np.stack([low[:, 1], high[:, 1]], 1)[:, :, None]
        corners = self._firsts[images][:, None, None] + y * grids[:, 0, None, None] + x  # (M, 2, 2)
        right, down = (np.stack([1 - part, part], 1) for part in (place - low).T)
        weights = torch.from_numpy(down[:, :, None] * right[:, None, :]).float().reshape(-1, 1, 4)
        around = self._cells.index_select(0, torch.from_numpy(corners.reshape(-1))).float()
        return (weights @ around.reshape(-1, 4, dim)).squeeze(1)

    def enlarged(self, logits: Tensor, i: int) -> Tensor:
        """Logits of the cells of map i, (..., H, W), at each pixel of its mask, as interpolated in `sample`."""
        sides = self.masks[i].shape[::-1]
        right, down = (spread(n, look).to(logits) for n, look in zip(sides, self.looks[i], strict=True))
        return down @ logits @ right.T


def even(grid: Sequence[int]) -> Looks:
    """Where columns and rows of a map (H, W, ...) look that is stretched over its image."""
    return [(np.arange(n) + 0.5) / n for n in (grid[1], grid[0])]


def looks_of(cells: Tensor, side: int) -> Looks:
    """Where columns (W,) and rows (H,) look as fractions of a square's side, from `cells` (H, W, 2) in its pixels."""
    return [x.double().cpu().numpy() / side for x in (cells[0, :, 0], cells[:, 0, 1])]


def between(places: np.ndarray, looks: np.ndarray) -> np.ndarray:
    """The cells that look at `places` (M,), as fractional numbers; beyond the outermost ones, those."""
    return np.interp(places, looks, np.arange(len(looks)))


def spread(pixels: int, looks: np.ndarray) -> Tensor:
    """How much each of W cells, looking at `looks`, says of each of a row of pixels, (pixels, W)."""
    cell = between((np.arange(pixels) + 0.5) / pixels, looks)
    return torch.from_numpy(np.maximum(0, 1 - np.abs(cell[:, None] - np.arange(len(looks)))))


def confusion(predicted: Tensor, truth: Tensor, classes: int) -> Tensor:
    """Counts (K, K), truth by prediction, of the pixels (of any shape) whose truth is a class, below K."""
    keep = truth < classes
    flat = truth[keep].long() * classes + predicted[keep].long()
    return torch.bincount(flat, minlength=classes * classes).reshape(classes, classes)


def iou(counts: Tensor) -> Tensor:
    """Intersection over union (..., K) of counts (..., K, K), float64; NaN for one neither present nor predicted."""
    counts = counts.double()
    hit = counts.diagonal(dim1=-2, dim2=-1)
    return hit / (counts.sum(-2) + counts.sum(-1) - hit)


def areas(counts: Tensor) -> np.ndarray:
    """What of confusion counts (N, K, K) the mean IoU is made of, (N, 2·K): the right pixels, and the union."""
    right = counts.diagonal(dim1=1, dim2=2)
    return torch.cat([right, counts.sum(1) + counts.sum(2) - right], 1).double().numpy()


def mean_iou(areas: np.ndarray) -> np.ndarray:
    """Mean IoU (...) of sums of `areas` (..., 2·K)."""
    right, union = np.split(areas, 2, axis=-1)
    there = union > 0
    return (right / np.where(there, union, 1)).sum(-1) / there.sum(-1).clip(1)


def statistics(maps: Sequence[Tensor], rows: np.ndarray, device: torch.device) -> Standardise:
    """Mean and deviation of each channel over all cells of some maps (H, W, D)."""
    moments, cells = torch.zeros(2, maps[0].shape[-1], dtype=torch.float64), 0
    for batch in torch.from_numpy(rows).split(16):
        x = torch.cat([maps[i].flatten(0, 1) for i in batch.tolist()]).to(device).float()
        moments += torch.stack([x.mean(0), x.square().mean(0)]).cpu().double() * len(x)
        cells += len(x)
    mean, square = moments / cells
    deviation = ((square - mean.square()).clamp_min(0) + 1e-5).sqrt()
    return Standardise(mean.float().to(device), deviation.float().to(device))


@torch.inference_mode()
def count_confusions(
    probes: Probes, standardise: Standardise, scenes: Scenes, rows: Sequence[int], device: torch.device
) -> Iterator[Tensor]:
    """Confusion counts (G, K, K) of each of some images, at its mask's own resolution."""
    for i in rows:
        truth = torch.from_numpy(scenes.masks[i]).to(device)
        logits = probes.logits(standardise(scenes.maps[i].to(device).float()).flatten(0, 1))
        small = logits.permute(1, 2, 0).unflatten(2, scenes.maps[i].shape[:2])
        predicted = scenes.enlarged(small, i).argmax(1)
        yield torch.stack([confusion(p, truth, probes.classes).cpu() for p in predicted])


def miou_interval(counts: Tensor, seed: int, draws: int = 1000) -> list[float]:
    """The 95% interval of the mean IoU by the bootstrap over images, from their confusion counts (N, K, K)."""
    drawn = torch.from_numpy(random.uniform(seed, "miou_interval", n=draws * len(counts))).view(draws, -1)
    rows = (drawn * len(counts)).long()
    times = torch.zeros(rows.shape).scatter_add_(1, rows, torch.ones(rows.shape))
    means = iou((times @ counts.float().flatten(1)).view(draws, *counts.shape[1:])).nanmean(1)
    return torch.quantile(means, torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()


def _gather(context: EvalContext, source: ImageSource) -> tuple[Any, list[np.ndarray], list[Looks], np.ndarray]:
    """Maps (H, W, D) and masks of the images of which both can be read, where cells look, the images' positions."""
    bank = context.extract(source, crop_pct=None, dense=True)
    masks: dict[int, np.ndarray] = {}
    for row, i in enumerate(bank.index.tolist()):
        try:
            masks[row] = source.mask(i)
        except Unreadable as error:
            bank.skipped.append((f"mask of {source.key(i)}", str(error)))
    context.skipped.extend(bank.skipped)
    if not masks:
        raise UsageError(f"none of the masks of {source.name} can be read ({bank.skipped[0][1]})")
    index = bank.index.numpy()[list(masks)]
    if bank.dense is None or bank.cells is None:  # images in their own shapes, of which patches are even parts
        assert bank.maps is not None
        shaped = [bank.maps[row] for row in masks]
        return shaped, list(masks.values()), [even(x.shape) for x in shaped], index
    maps = bank.dense.permute(0, 2, 3, 1).contiguous()
    kept = maps if len(masks) == len(maps) else maps[list(masks)]
    return kept, list(masks.values()), [looks_of(bank.cells, context.image_size)] * len(kept), index


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

    The whole image is squeezed into the square (or keeps its shape, where all do), the map has the encoder's own output
    stride, and the score is taken at the masks' full resolution. The learning rate is chosen on a held-out fifth of the
    training images; then one classifier is trained on all of them and tested once. `miou_uniform` is that of the same
    with the map stretched over the image, as is usual.

    Returns:
        miou, its 95% interval, and pixel_accuracy on the test images; iou per class (None: neither present nor
        predicted); the chosen lr; validation_miou; output_stride in pixels; miou_uniform.
    """
    maps, raw, looks, _ = _gather(context, context.train)
    classes, device = Classes.of(context.train, raw), context.device
    train, count = Scenes(maps, [classes.table[mask] for mask in raw], looks), len(classes.names)
    kept, held = held_out(len(raw), context.seed, "segment")
    if len(held) == 0:
        raise UsageError("segment needs at least two training images, to choose its learning rate on")
    maps, raw, looks, index = _gather(context, context.test)
    test = Scenes(maps, [classes.table[mask] for mask in raw], looks)
    settings = [(lr, weight_decay) for lr in lrs]

    def trained(rows: np.ndarray, settings: list[tuple[float, float]]) -> tuple[Standardise, Probes]:
        """One convolution per (lr, wd), all at once, each the same as if trained alone, on some training images."""
        standardise = statistics(train.maps, rows, device)
        probes = Probes(settings, train.maps[0].shape[-1], count, device)
        for step in range(steps):
            x, y = train.sample(random.uniform(context.seed, "segment", step, np.arange(batch_size), n=3), rows)
            if len(x):
                targets = F.one_hot(y, count).float()
                probes.learn(standardise(x.to(device)), targets.to(device), step / steps)
        return standardise, probes

    def measure() -> tuple[Tensor, float, float]:
        """Counts (N, K, K) on the test images, the learning rate chosen, and what it was chosen for."""
        standardise, probes = trained(kept, settings)
        counted = count_confusions(probes, standardise, train, held.tolist(), device)
        scores = iou(functools.reduce(torch.add, counted)).nanmean(1)
        chosen = best(scores, probes.finite().cpu())
        standardise, probe = trained(np.arange(len(train.masks)), [settings[chosen]])
        counts = torch.cat([*count_confusions(probe, standardise, test, range(len(test.masks)), device)]).int()
        return counts, settings[chosen][0], float(scores[chosen])

    of_images, lr, validation = measure()
    context.each = PerImage("miou", index, areas(of_images), mean_iou)
    counts = of_images.sum(0)
    per_class = iou(counts)
    result = {
        "miou": float(per_class.nanmean()),
        "miou_interval": miou_interval(of_images, context.seed),
        "pixel_accuracy": float(counts.diagonal().sum() / counts.sum().clamp_min(1)),
        "iou": {n: None if v != v else v for n, v in zip(classes.names, per_class.tolist(), strict=True)},
        "lr": lr,
        "validation_miou": validation,
        "output_stride": context.image_size / maps[0].shape[1],
    }
    if context.native:
        result["output_stride"] = float(context.encoder.stride)  # type: ignore[arg-type]
    if all(np.allclose(look, at) for look, at in zip(looks[0], even(maps[0].shape), strict=True)):
        return result | {"miou_uniform": result["miou"]}
    train.looks, test.looks = [[even(x.shape) for x in scenes.maps] for scenes in (train, test)]
    return result | {"miou_uniform": float(iou(measure()[0].sum(0)).nanmean())}
