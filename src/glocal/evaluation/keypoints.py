"""Keypoints: heat-maps over the cells of a map, the places they mean, how many are right (PCK), and a frozen probe."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from glocal.data.source import ImageSource, Keypoints
from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.extract import FeatureBank
from glocal.evaluation.groups import PerImage
from glocal.evaluation.registry import task
from glocal.evaluation.ridge import moments, ridge
from glocal.evaluation.segment import looks_of
from glocal.evaluation.split import held_out

SIGMA = 1.5
"""Width of a joint's heat-map, cells."""
OF_TORSO, OF_BOX = 0.2, 0.1
"""How far off a keypoint may be found: a share of the torso or, where there is none, of the longer side of the box
around the known keypoints; of a single one, of the image's."""
PENALTIES = (1e-3, 1e-2, 0.1, 1.0, 10.0)

_SIDES = {"l": "r", "r": "l", "left": "right", "right": "left"}
_SIDE = re.compile(r"left|right|(?<![a-z])[lr](?![a-z])")
_WORDS = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
"""Where a word of a name like LeftKnee or RKnee begins."""


def _sides(names: Sequence[str]) -> list[tuple[str, str]]:
    """Of each keypoint "l" or "r", or "" where its name says neither; and its name in a mirror; in lower case.

    l_knee, LeftKnee, knee-left, RKnee say a side; lknee does where there is an rknee.
    """
    plain, found = [_plain(name) for name in names], list[tuple[str, str]]()
    for name in plain:
        if said := _SIDE.search(name):
            found.append((said[0][0], _SIDE.sub(lambda side: _SIDES[side[0]], name)))
        elif name[:1] in ("l", "r") and (other := _SIDES[name[0]] + name[1:]) in plain:
            found.append((name[0], other))
        else:
            found.append(("", name))
    return found


def _plain(name: str) -> str:
    return _WORDS.sub("_", name).lower()


def mirrored(names: Sequence[str]) -> np.ndarray:
    """(J,) int64: which keypoint each is in a mirror, by their names: l_knee is r_knee there, neck is neck."""
    plain = [_plain(name) for name in names]
    return np.array([plain.index(name) if name in plain else j for j, (_, name) in enumerate(_sides(names))])


def sides(names: Sequence[str]) -> list[str]:
    """Of each keypoint "l" or "r", which its name says it to be, or ""."""
    return [side for side, _ in _sides(names)]


def torsos(names: Sequence[str]) -> list[tuple[int, int]]:
    """Pairs of a shoulder and the hip of the other side."""
    shoulders, hips = (
        [
            (j, side)
            for j, (name, side) in enumerate(zip(names, sides(names), strict=True))
            if side and part in _plain(name)
        ]
        for part in ("sho", "hip")
    )
    return [(a, b) for a, one in shoulders for b, other in hips if one != other]


def tolerances(keypoints: Keypoints, sizes: np.ndarray) -> np.ndarray:
    """(N,) within how many pixels of the truth a keypoint of each image is right; NaN where that cannot be said.

    Args:
        keypoints: their true places.
        sizes: (N, 2) of the images, pixels.
    """
    points, known = keypoints.points[..., :2], keypoints.points[..., 2] > 0
    if pairs := torsos(keypoints.names):
        lengths = [np.where(known[:, a] & known[:, b], np.linalg.norm(points[:, a] - points[:, b], axis=1), np.nan)
                   for a, b in pairs]  # fmt: skip
        there = np.isfinite(lengths)
        total = np.where(there, lengths, 0).sum(0)
        return np.where(there.any(0), OF_TORSO * total / there.sum(0).clip(1), np.nan)
    if len(keypoints.names) == 1:
        return OF_BOX * sizes.max(1).astype(np.float64)
    low = np.where(known[..., None], points, np.inf).min(1)
    high = np.where(known[..., None], points, -np.inf).max(1)
    return np.where(known.sum(1) > 1, OF_BOX * (high - low).max(1), np.nan)


def count_right(found: np.ndarray, keypoints: Keypoints, sizes: np.ndarray) -> np.ndarray:
    """(N, 2, J) float64: which keypoints of each image are right, and which count, given places (N, J, 2), pixels."""
    within = tolerances(keypoints, sizes)[:, None]
    counts = (keypoints.points[..., 2] > 0) & np.isfinite(within)
    right = np.linalg.norm(found - keypoints.points[..., :2], axis=2) <= np.where(np.isfinite(within), within, 0)
    return np.stack([right & counts, counts], 1).astype(np.float64)


def pck(counted: np.ndarray) -> float:
    """The share of keypoints that are right, of sums (2, J) of `count_right`; NaN where none counts."""
    return float(counted[0].sum() / counted[1].sum()) if counted[1].any() else math.nan


def heat_maps(places: Tensor, looks: Sequence[np.ndarray]) -> Tensor:
    """Gaussians around places (..., 2), fractions of the square's sides, over the cells (..., H, W); of sum 1.

    Args:
        places: (x, y).
        looks: where columns and rows of cells look, see `looks_of` of segmentation.
    """
    x, y = (
        torch.exp(-0.5 * ((torch.from_numpy(look).to(place) - place[..., None]) / (SIGMA * _step(look))).square())
        for look, place in zip(looks, places.unbind(-1), strict=True)
    )
    heat = y[..., :, None] * x[..., None, :]
    return heat / heat.sum((-2, -1), keepdim=True).clamp_min(1e-12)


def peaks(heat: Tensor, looks: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
    """Where heat-maps (..., H, W) ≥ 0 are highest, (..., 2) in fractions of the square, and how much lies there (...).

    A place is the centre of mass of the 3×3 cells around the highest one, what lies there is their sum.
    """
    height, width = heat.shape[-2:]
    top = heat.flatten(-2).argmax(-1)[..., None, None]
    rows, columns = torch.arange(height, device=heat.device), torch.arange(width, device=heat.device)
    near_y = ((rows - top.squeeze(-1) // width).abs() <= 1)[..., :, None]
    near = near_y & ((columns - top.squeeze(-1) % width).abs() <= 1)[..., None, :]
    mass = torch.where(near, heat, 0)
    total = mass.sum((-2, -1)).clamp_min(1e-12)
    x, y = ((mass.sum(k) * at.to(heat)).sum(-1) / total for k, at in ((-2, columns), (-1, rows)))
    place = [float(look[0]) + at * _step(look) for look, at in zip(looks, (x, y), strict=True)]
    return torch.stack(place, -1), total


def _step(look: np.ndarray) -> float:
    return float(look[-1] - look[0]) / (len(look) - 1) if len(look) > 1 else 1.0


def fractions(keypoints: Keypoints, sizes: np.ndarray) -> Tensor:
    """(N, J, 2) places as fractions of the images' sides, given sizes (N, 2) as (width, height)."""
    return torch.from_numpy(keypoints.points[..., :2] / sizes[:, None]).float()


@dataclass(frozen=True)
class _Probe:
    """A ridge regression from features to places.

    Attributes:
        inputs: (bank, rows (M,)) -> what it sees of some images, (M, cells, F).
        targets: rows (M,) of the training images -> what it is to say, (M, cells, K).
        places: what it says (M, cells, K) -> fractions (M, J, 2).
    """

    inputs: Callable[[FeatureBank, Tensor], Tensor]
    targets: Callable[[Tensor], Tensor]
    places: Callable[[Tensor], Tensor]

    def fits(self, bank: FeatureBank, rows: Tensor, penalties: Sequence[float]) -> list[tuple[Tensor, Tensor]]:
        """Weight and bias for each penalty, from some training images."""
        total, width = torch.zeros(()), 0
        for at in rows.split(64):
            x = self.inputs(bank, at).flatten(0, 1)
            total, width = total + moments(x, self.targets(at).flatten(0, 1)), x.shape[1]
        return ridge(total, width, penalties)

    def found(self, fit: tuple[Tensor, Tensor], bank: FeatureBank, rows: Tensor) -> np.ndarray:
        """Fractions (M, J, 2) in some images."""
        weight, bias = fit
        return torch.cat([self.places(self.inputs(bank, at) @ weight + bias) for at in rows.split(64)]).numpy()


def _cells(maps: Tensor) -> Tensor:
    return maps.flatten(2).transpose(1, 2).float()


def _read(source: ImageSource, bank: FeatureBank) -> tuple[Keypoints, np.ndarray]:
    """The keypoints of a bank's images, and their sizes (N, 2)."""
    assert source.keypoints is not None
    return source.keypoints.at(bank.index.numpy()), np.array([source.open(i).size for i in bank.index.tolist()])


@task(
    needs={"keypoints"},
    title="Keypoints",
    main="pck",
    words={"pck": "keypoints right", "pck_pooled": "from the pooled feature", "pck_mean": "at their mean places"},
    shares={"pck": "keypoints", "pck_pooled": "keypoints", "pck_mean": "keypoints"},
)
def keypoints(context: EvalContext) -> dict:
    """Share of keypoints that a ridge regression finds, from the dense map, from the pooled feature, without either.

    The map is that before the last halving, where there is one (`Backbone.earlier`). The whole image is squeezed into
    the square. From the map, each cell says how much of each keypoint's heat-map lies in it; from the pooled feature,
    where each keypoint is. Penalties are chosen on a held-out fifth of the training images. A keypoint is right within
    a fifth of the torso (shoulder to the hip of the other side) or, where names tell of none, a tenth of the box around
    the known ones, and a single one within a tenth of the image; images of which that cannot be said don't count. In a
    training image where a keypoint is not known, it has no heat, or its mean place.

    Returns:
        pck, pck_pooled and pck_mean (every keypoint at its mean place) on the test images; the penalties chosen.
    """
    options: dict[str, Any] = {"crop_pct": None, "dense": True}
    earlier = getattr(context.encoder, "earlier", lambda: context.encoder)
    seen = replace(context, encoder=earlier())
    train, test = seen.extract(context.train, **options), seen.extract(context.test, **options)
    context.skipped.extend([*train.skipped, *test.skipped])
    (truth, sizes), (wanted, wanted_sizes) = _read(context.train, train), _read(context.test, test)
    if truth.names != wanted.names:
        raise UsageError(f"{context.test.name}: its keypoints are not those of the training images")
    assert train.dense is not None
    assert train.cells is not None
    for source, known_of, of in ((context.train, truth, sizes), (context.test, wanted, wanted_sizes)):
        if not np.isfinite(tolerances(known_of, of)).any():
            raise UsageError(
                f"{source.name}: no image shows how large the person is; a shoulder and the other side's hip would"
            )
    grid, looks = train.cells.shape[:2], looks_of(train.cells, context.image_size)
    known, places = torch.from_numpy(truth.points[..., 2:] > 0), fractions(truth, sizes)
    mean = torch.where(known, places, 0).sum(0) / known.sum(0).clamp_min(1)
    kept, held = (torch.from_numpy(rows) for rows in held_out(len(places), context.seed, "keypoints"))
    if not len(held):
        raise UsageError("keypoints needs at least two training images, to choose its penalties on")

    def means(y: Tensor) -> Tensor:
        heat = y.transpose(1, 2).unflatten(2, grid)
        return peaks(heat - heat.amin((-2, -1), keepdim=True), looks)[0]

    from_map = _Probe(
        lambda bank, rows: _cells(bank.dense[rows]),  # type: ignore[index]
        lambda rows: _cells(heat_maps(places[rows], looks) * known[rows][..., None]),
        means,
    )
    from_pooled = _Probe(
        lambda bank, rows: bank.pooled[rows, None],
        lambda rows: torch.where(known, places, mean)[rows].flatten(1)[:, None],
        lambda y: y.squeeze(1).unflatten(1, (-1, 2)),
    )
    result: dict[str, Any] = {}
    for name, probe in (("pck", from_map), ("pck_pooled", from_pooled)):
        tried = [probe.found(fit, train, held) * sizes[held, None] for fit in probe.fits(train, kept, PENALTIES)]
        scores = [pck(count_right(found, truth.at(held.numpy()), sizes[held]).sum(0)) for found in tried]
        penalty = PENALTIES[int(np.argmax(np.nan_to_num(scores)))]
        (fit,) = probe.fits(train, torch.arange(len(places)), [penalty])
        right = count_right(
            probe.found(fit, test, torch.arange(len(test.index))) * wanted_sizes[:, None], wanted, wanted_sizes
        )
        result |= {name: pck(right.sum(0)), f"{name}_penalty": penalty}
        if name == "pck":
            parts = right.sum(2)
            counts = parts[:, 1] > 0
            context.each = PerImage("pck", test.index.numpy()[counts], parts[counts])
    still = np.broadcast_to(mean.numpy(), wanted.points[..., :2].shape) * wanted_sizes[:, None]
    return result | {"pck_mean": pck(count_right(still, wanted, wanted_sizes).sum(0))}
