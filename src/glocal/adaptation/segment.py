"""Segmentation: a 1×1 convolution on the standardised map, enlarged from where its cells really look."""

import json
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from glocal.adaptation.heads import Labelled, Standardised
from glocal.data import Subset
from glocal.data.source import ImageSource, Unreadable
from glocal.errors import UsageError
from glocal.evaluation.segment import IGNORE, Classes, confusion, iou, spread
from glocal.features import Features
from glocal.run import OutFiles, write_atomically
from glocal.views import Batch


class Segment(nn.Module):
    """Which class each pixel is of."""

    needs = "masks"
    main = "miou"
    least_cells = 12
    crop_pct: float | None = None
    scale = (0.25, 1.0)
    few = 0
    lr = 1e-5

    def __init__(self, dim: int, classes: list[str]) -> None:
        super().__init__()
        self.classes = list(classes)
        self.standardised, self.linear = Standardised(dim), nn.Linear(dim, len(classes))
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    @staticmethod
    def read(source: ImageSource, classes: list[str] | None = None) -> Labelled:
        """The images whose masks can be read; all masks stay in memory."""
        masks, skipped = {}, {}
        for i in range(len(source)):
            try:
                masks[i] = source.mask(i)
            except Unreadable as error:
                skipped[f"mask of {source.key(i)}"] = str(error)
        if not masks:
            raise UsageError(f"none of the masks of {source.name} can be read")
        found = Classes.of(source, list(masks.values()))
        if classes is not None and found.names != classes:  # a split may lack some
            if unknown := sorted({*found.names} - {*classes}):
                raise UsageError(f"{source.name} has masks of '{unknown[0]}', of which there are none to learn from")
            numbers = np.array([*(classes.index(name) for name in found.names), *[IGNORE] * (256 - len(found.names))])
            found = Classes(classes, numbers[found.table].astype(np.uint8))
        known = _Masked(source, np.array(list(masks)), [found.table[mask] for mask in masks.values()])
        amounts = sum(np.bincount(mask.ravel(), minlength=256)[: len(found.names)] for mask in known.masks)
        return Labelled(known, found.names, np.asarray(amounts), known.target, skipped)

    def forward(self, features: Features) -> Tensor:
        """Logits (B, K, H, W), a cell for each of the map."""
        return self.linear(self.standardised(features.dense.float().movedim(1, -1))).movedim(-1, 1)

    def looked_at(self, features: Features) -> Tensor:
        """The features of some 16 cells of each image, (M, D)."""
        return features.tokens[:, :: max(1, features.tokens.shape[1] // 16)].flatten(0, 1)

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """Knowing nothing."""
        self.standardised.take(seen)

    def losses(self, logits: Tensor, target: Tensor, looks: Any) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each known pixel of (B, h, w) targets (M,), and its class (M,)."""
        large = _enlarged(logits.float(), target.shape[1:], looks)
        known = target >= 0
        each = F.cross_entropy(large, target, ignore_index=-1, reduction="none")
        return each[known], target[known]

    def answer(self, logits: Tensor, size: tuple[int, int], looks: Any) -> np.ndarray:
        """The likeliest class of each pixel, (h, w) uint8."""
        width, height = size
        rows = spread(height, looks[1]).to(logits).split(256)  # of a large photograph not all logits fit in memory
        right = spread(width, looks[0]).to(logits)
        return torch.cat([(down @ logits @ right.T).argmax(0).byte().cpu() for down in rows]).numpy()

    def tally(self, answer: np.ndarray, source: ImageSource, i: int) -> np.ndarray:
        """Pixels by true and predicted class, (K, K)."""
        truth = torch.from_numpy(source.mask(i))
        return confusion(torch.from_numpy(answer), truth, len(self.classes)).double().numpy()

    def scores(self, tallies: np.ndarray) -> dict[str, float]:
        """Mean intersection over union, and the share of pixels that are right."""
        counts = torch.from_numpy(tallies)
        right = float(counts.diagonal().sum() / counts.sum().clamp_min(1))
        return {"miou": float(iou(counts).nanmean()), "pixel_accuracy": right}

    def write(self, out: Path, answers: Iterable[tuple[str, np.ndarray]]) -> None:
        """PNG files of class numbers in colours, of the images' sizes and names (`OutFiles`), and classes.json."""
        if out.suffix or out.is_file():
            raise UsageError(f"masks are written into a folder, which '{out}' is not")
        files = OutFiles(out, ".png")
        for key, mask in answers:
            image = Image.fromarray(mask)
            image.putpalette(self.colours().ravel().tolist())
            write_atomically(files.of(key), partial(image.save, format="PNG"))
        write_atomically(out / "classes.json", json.dumps({"names": self.classes}, indent=2) + "\n")

    def shown(self, image: Image.Image, answer: np.ndarray, scale: float = 1.0) -> tuple[list[Image.Image], str]:
        """The image, and its classes in colours; the largest classes by name."""
        large = Image.fromarray(answer).resize(image.size, Image.Resampling.NEAREST)
        coloured = Image.fromarray(self.colours()[np.asarray(large)])
        share = np.bincount(answer.ravel(), minlength=len(self.classes)) / answer.size
        said = [f"{self.classes[k]} {share[k]:.0%}" for k in share.argsort()[::-1][:3] if share[k] >= 0.005]
        return [image, Image.blend(image, coloured, 0.6)], ", ".join(said)

    def legend(self) -> dict[str, str]:
        """Class → its colour in pictures, as CSS."""
        return {name: f"rgb({r} {g} {b})" for name, (r, g, b) in zip(self.classes, self.colours(), strict=False)}

    def colours(self) -> np.ndarray:
        """One of each class, (256, 3) uint8, hues far apart."""
        hues = [(int(256 * 0.618034 * k) % 256, 190, 230 if k % 2 else 160) for k in range(256)]
        image = Image.new("HSV", (256, 1))
        image.putdata(hues)
        return np.asarray(image.convert("RGB"))[0]


class _Masked(Subset):
    """Images with their masks in memory, as numbers of classes."""

    def __init__(self, source: ImageSource, positions: np.ndarray, masks: list[np.ndarray]) -> None:
        super().__init__(source, positions)
        self.masks = masks

    def mask(self, i: int) -> np.ndarray:
        """(h, w) uint8, `IGNORE` where nothing is known."""
        return self.masks[i]

    def target(self, batch: Batch) -> Tensor:
        """The class at every other pixel of the crops, each taken home to its photograph: (B, h / 2, w / 2)."""
        view = batch.views[0]
        height, width = (max(1, side // 2) for side in view.pixels.shape[-2:])
        places = view.centers(height, width).floor().long().cpu().numpy()
        found = np.empty(places.shape[:3], np.int64)
        for row, i in enumerate(batch.index.tolist()):
            mask = self.masks[i]
            x, y = places[row, ..., 0].clip(0, mask.shape[1] - 1), places[row, ..., 1].clip(0, mask.shape[0] - 1)
            found[row] = mask[y, x]
        return torch.from_numpy(np.where(found == IGNORE, -1, found))


def _enlarged(logits: Tensor, size: Any, looks: Any) -> Tensor:
    """Logits of cells (..., H, W) at the pixels of a picture (h, w), bilinear between where the cells look."""
    right, down = spread(size[1], looks[0]).to(logits), spread(size[0], looks[1]).to(logits)
    return down @ logits @ right.T
