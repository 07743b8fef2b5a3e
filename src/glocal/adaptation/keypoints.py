"""Keypoints: a detector of heat-maps on the map, and a spatial model by which joints tell of each other."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from glocal.adaptation.heads import Labelled, Standardised
from glocal.data import Keypoints, Subset
from glocal.data.source import ImageSource
from glocal.errors import UsageError
from glocal.evaluation.keypoints import count_right, fractions, heat_maps, mirrored, pck, peaks, sides
from glocal.features import Features
from glocal.heads.spatial_model import SpatialModel
from glocal.run import write_atomically
from glocal.views import Batch

WIDTH = 64
"""Channels between the map and the heat-maps."""


class Locate(nn.Module):
    """Where joints are (Tompson et al. 2014, arXiv 1406.2984), on the map of an encoder before its last halving.

    In the first third of the run the detector trains, in the second the spatial model, in the last one both. Heat-maps
    are distributions over the cells, compared with Gaussians around the joints by cross-entropy.
    """

    needs = "keypoints"
    main = "pck"
    least_cells = 16
    earlier = True
    crop_pct: float | None = None
    scale = (0.5, 1.0)
    few = 10**9
    lr = 1e-4

    progress: Tensor
    limbs: Tensor

    def __init__(self, dim: int, classes: list[str]) -> None:
        super().__init__()
        self.classes = list(classes)
        self.flip = 0.5 if len(classes) == 1 or any(sides(classes)) else 0.0  # else a mirror may make left right
        self.standardised = Standardised(dim)
        narrow, last = nn.Conv2d(dim, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, len(classes), 1, bias=False)
        self.detector = nn.Sequential(narrow, nn.ReLU(), last)
        self.spatial = SpatialModel(len(classes))
        self.register_buffer("progress", torch.zeros(()))
        self.register_buffer("limbs", torch.zeros(max(0, len(classes) - 1), 2, dtype=torch.int64))

    @staticmethod
    def read(source: ImageSource, classes: list[str] | None = None) -> Labelled:
        """The images of which some joint is known."""
        assert source.keypoints is not None
        own, points = source.keypoints.names, source.keypoints.points
        classes = own if classes is None else classes
        if lacking := [name for name in classes if name not in own]:
            raise UsageError(f"{source.name} has no keypoint '{lacking[0]}'; those to learn are {', '.join(classes)}")
        ordered = points[:, [own.index(name) for name in classes]]
        there = np.flatnonzero((ordered[..., 2] > 0).any(1))
        known = _Located(source, there)
        known.keypoints = Keypoints(classes, ordered[there])
        return Labelled(known, classes, (ordered[..., 2] > 0).sum(0), known.target)

    def forward(self, features: Features) -> Tensor:
        """Logarithms of heat-maps (B, J, H, W), but for a constant of each."""
        found = self.heat(features)
        if self.training:  # several processes wait for what trains above the map, too
            found = found + 0 * features.pooled.sum()
        third = min(2, int(3 * self.progress)) if self.training else 2
        if third == 0:
            return found + 0 * sum(each.sum() for each in self.spatial.parameters())  # several processes wait for all
        joint = self.spatial(_shares(found.detach() if third == 1 else found))
        return joint + 0 * found if third == 1 else joint

    def heat(self, features: Features) -> Tensor:
        """The same by the detector alone."""
        return self.detector(self.standardised(features.dense.float().movedim(1, -1)).movedim(-1, 1)).float()

    def after_step(self, progress: float) -> None:
        """Keep where the run is, 0 to 1."""
        self.progress.fill_(progress)

    def looked_at(self, features: Features) -> Tensor:
        """The features of some 16 cells of each image, (M, D)."""
        return features.tokens[:, :: max(1, features.tokens.shape[1] // 16)].flatten(0, 1)

    def begin(self, seen: Tensor, source: ImageSource, index: Tensor) -> None:
        """With a spatial model of the training joints, mirrored too if images are; limbs join what moves together."""
        from scipy.sparse.csgraph import minimum_spanning_tree

        assert source.keypoints is not None
        self.standardised.take(seen)
        found = source.keypoints.at(index.numpy())
        places = fractions(found, np.array([source.open(i).size for i in index.tolist()]))
        other, known = mirrored(self.classes), torch.from_numpy(found.points[..., 2] > 0)
        mirror = places[:, other] * torch.tensor([-1.0, 1.0])
        seen_as = slice(2 if self.flip else 1)
        self.spatial.begin(torch.cat([places, mirror][seen_as]), torch.cat([known, known[:, other]][seen_as]))
        both = (known[:, None] & known[:, :, None])[..., None]
        moved = torch.where(both, places[:, None] - places[:, :, None], torch.nan)
        spread = (moved - moved.nanmean(0)).square().nanmean(0).sum(-1).nan_to_num(1.0)
        tree = minimum_spanning_tree(spread.numpy().astype(np.float64) + 1.0).nonzero()
        self.limbs.copy_(torch.from_numpy(np.stack(tree, 1).astype(np.int64)))

    def losses(self, logits: Tensor, target: Tensor, looks: Any) -> tuple[Tensor, Tensor]:
        """Cross-entropy of each known joint of targets (B, J, 3) (M,), and which it is (M,)."""
        known = target[..., 2] > 0
        heat = heat_maps(target[..., :2][known], looks).flatten(1)
        each = F.cross_entropy(logits.float()[known].flatten(1), heat, reduction="none")
        return each, known.nonzero()[:, 1]

    def answer(self, logits: Tensor, size: tuple[int, int], looks: Any) -> np.ndarray:
        """Where each joint is, (J, 3): x and y in pixels, and how much of its heat-map lies there."""
        place, mass = peaks(_shares(logits.float()), looks)
        pixels = place.cpu() * torch.tensor(size)
        return torch.cat([pixels, mass.cpu()[:, None]], 1).numpy()

    def tally(self, answer: np.ndarray, source: ImageSource, i: int) -> np.ndarray:
        """Which joints are right, and which count, (2, J)."""
        assert source.keypoints is not None
        return count_right(answer[None, :, :2], source.keypoints.at(np.array([i])), np.array([source.open(i).size]))[0]

    def scores(self, tallies: np.ndarray) -> dict[str, float]:
        """The share of joints within a fifth of the torso (see `tolerances`)."""
        return {"pck": pck(tallies)}

    def write(self, out: Path, answers: Iterable[tuple[str, np.ndarray]]) -> None:
        """A table: image_path, then x, y and confidence of each joint. It is itself a list of files with keypoints."""
        if out.suffix.lower() != ".csv":
            raise UsageError(f"keypoints are written as a table: end '{out.name}' in .csv")
        text = io.StringIO()
        table = csv.writer(text, lineterminator="\n")
        columns = [f"{name}.{what}" for name in self.classes for what in ("x", "y", "confidence")]
        table.writerow(["image_path", *columns])
        for key, joints in answers:
            table.writerow([key, *(f"{x:.6g}" for x in joints.ravel())])
        write_atomically(out, text.getvalue().encode("utf-8", "backslashreplace").decode())

    def shown(self, image: Image.Image, answer: np.ndarray, scale: float = 1.0) -> tuple[list[Image.Image], str]:
        """The image with its joints and limbs; how sure the joints are."""
        drawn, unit = image.copy(), max(image.size) / 128
        draw, points = ImageDraw.Draw(drawn), answer[:, :2] * scale
        for a, b in self.limbs.tolist():
            draw.line([*points[a], *points[b]], fill=(255, 255, 255), width=round(2 * unit))
        colours = {"l": (255, 160, 0), "r": (0, 170, 255), "": (255, 60, 120)}
        for side, (x, y) in zip(sides(self.classes), points, strict=True):
            colour = colours[side]
            draw.ellipse([x - 2 * unit, y - 2 * unit, x + 2 * unit, y + 2 * unit], fill=colour)
        return [drawn], f"{answer[:, 2].mean():.0%} sure"


class _Located(Subset):
    """Images with their keypoints."""

    def target(self, batch: Batch) -> Tensor:
        """Where the joints lie in the crops, (B, J, 3): x and y as fractions of the side, and 1 where they are known.

        In a mirrored crop left is right.
        """
        assert self.keypoints is not None
        view, points = batch.views[0], torch.from_numpy(self.keypoints.points[batch.index.cpu().numpy()])
        points = points.to(view.affine.device)
        swapped = points[:, torch.from_numpy(mirrored(self.keypoints.names))]
        points = torch.where(view.flipped[:, None, None], swapped, points)
        place = view.from_source(points[..., :2]) / view.pixels.shape[-1]
        inside = ((place >= 0) & (place < 1)).all(-1)
        return torch.cat([place, ((points[..., 2] > 0) & inside)[..., None].to(place)], -1)


def _shares(logits: Tensor) -> Tensor:
    """Softmax over the cells of maps (..., H, W)."""
    return logits.flatten(-2).softmax(-1).view(logits.shape)
