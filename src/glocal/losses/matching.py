"""The local half of VICRegL (Bardes, Ponce, LeCun 2022b): VICReg between matched locations of two feature maps.

Two views of an image are matched twice: by distance between their features and by distance between the source points
that their cells look at. In each direction every cell finds its nearest in the other map; the k closest of these pairs
are kept, in *slots*. VICReg is then applied to the matched features, with statistics over the batch for each slot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.distributed import gather
from glocal.errors import UsageError
from glocal.losses.covariance import invariance, spread, upcast, vicregl_global_loss, view_pairs, without_autocast
from glocal.losses.loss import Loss

SlotOrder = Literal["index", "distance"]


@dataclass(frozen=True)
class Matches:
    """Which cells of a source map meet which cells of a target map, in K slots.

    Attributes:
        source: (B, K) indices of cells of the source map, or None for all of them in their order.
        target: (B, K) indices of the cells of the target map that they meet.
    """

    source: Tensor | None
    target: Tensor


@dataclass(frozen=True)
class Direction:
    """A source view that looks for `k` matches in a target view."""

    source: int
    target: int
    k: int


def directions(
    sizes: Sequence[int], matches: tuple[int, int], *, matches_by_crop_type: bool
) -> dict[tuple[int, int], Counter[Direction]]:
    """The directions to match within each unordered pair of views, and how often each of them enters the loss.

    A comparison of (i, j) goes both ways. The pair (0, 1) is compared twice, as (0, 1) and as (1, 0), and whatever both
    comparisons share is counted here instead of computed again.

    Args:
        sizes: number of cells N of each view's map.
        matches: how many matches to keep, at most N.
        matches_by_crop_type: whether the two numbers are those of large source crops (views 0 and 1) and of small ones,
            as in the paper, or those of i→j and of j→i, as in the authors' code.
    """

    def k(source: int, forth: bool) -> int:
        first = source < 2 if matches_by_crop_type else forth
        return min(matches[0] if first else matches[1], sizes[source])

    found = {}
    for (i, j), count in view_pairs(len(sizes)).items():
        comparisons = [(i, j), (j, i)][:count]
        found[i, j] = Counter(
            direction
            for a, b in comparisons
            for direction in (Direction(a, b, k(a, True)), Direction(b, a, k(b, False)))
        )
    return found


@torch.no_grad()
def feature_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between the features of two maps: (B, N, C), (B, M, C) -> (B, N, M), without gradient."""
    shift = b.mean(dim=1, keepdim=True)  # distances do not change, and the expansion below cancels less
    a, b = a - shift, b - shift
    with without_autocast(a):
        partial = torch.baddbmm(b.square().sum(dim=-1)[:, None, :], a, b.mT, alpha=-2)
    return partial + a.square().sum(dim=-1)[:, :, None]


@torch.no_grad()
def point_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between two sets of points: (B, N, 2), (B, M, 2) -> (B, N, M), without gradient."""
    # not by expansion: source coordinates are large, and their squares would drown differences below a pixel
    return (a[:, :, None] - b[:, None]).square().sum(dim=-1)


def closest(distances: Tensor, k: int, slot_order: SlotOrder) -> Matches:
    """The `k` cells whose nearest target is nearest, each with that target.

    Args:
        distances: (B, N, M) from N source cells to M target cells.
        k: at most N.
        slot_order: whether a sample's slots follow the source cells' order or their distances, nearest first.
    """
    distance, target = distances.min(dim=2)
    if k == distance.shape[1] and slot_order == "index":
        return Matches(None, target)
    source = distance.argsort(dim=1, stable=True)[:, :k]
    if slot_order == "index":
        source = source.sort(dim=1).values
    return Matches(source, target.gather(1, source))


def take(tokens: Tensor, cells: Tensor) -> Tensor:
    """The features of each sample's own cells, by slot: (B, N, C), (B, K) -> (K, B, C)."""
    batch, size, _ = tokens.shape
    first = torch.arange(batch, device=cells.device)[:, None] * size
    # an embedding, because the backward of plain indexing adds in an order that differs from run to run
    return F.embedding((first + cells).T, tokens.flatten(0, 1))


def _check(maps: Sequence[Tensor], centers: Sequence[Tensor], matches: tuple[int, int], slot_order: str) -> None:
    if len(maps) != len(centers):
        raise UsageError(f"got {len(maps)} maps and {len(centers)} grids of centers; give one grid for each map")
    for view, (m, c) in enumerate(zip(maps, centers, strict=True)):
        if (m.shape[0], *m.shape[2:], 2) != tuple(c.shape):
            raise UsageError(f"view {view}: a map {tuple(m.shape)} needs centers (B, H, W, 2) and got {tuple(c.shape)}")
    if min(matches) < 1:
        raise UsageError(f"matches={matches}: keep at least 1 match in each direction")
    if slot_order not in ("index", "distance"):
        raise UsageError(f"slot_order={slot_order!r}: choose 'index' or 'distance'")


def vicregl_local_loss(
    maps: Sequence[Tensor],
    centers: Sequence[Tensor],
    *,
    matches: tuple[int, int] = (20, 4),
    l2_top_k: bool = True,
    matches_by_crop_type: bool = True,
    slot_order: SlotOrder = "index",
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Loss:
    """The local half of the VICRegL loss, on the batch joined over processes.

    λ·MSE(x, y) + μ·½[v(x) + v(y)] + ν·½[c(x) + c(y)] between matched features x and y, averaged over the pairs of
    `view_pairs` and the two directions of each; matching by feature and matching by location are added. The
    `variance_hinge` v and the `covariance_penalty` c are taken over the batch for each slot, and averaged over slots.

    Args:
        maps: V projected maps (B, C, H, W), each of its own size; the first two are those of the large crops.
        centers: V grids (B, H, W, 2), the source points that their cells look at, as (x, y) in source pixels.
        matches: how many matches to keep for a large and for a small source crop, at most as many as it has cells.
        l2_top_k: whether matching by feature keeps that many as well, as the authors intended; else it keeps every
            cell, as their code does by default.
        matches_by_crop_type: False for the authors' code, where `matches` are those of i→j and of j→i instead.
        slot_order: whether the kept matches fill a sample's slots in the order of their cells, as in the authors' code,
            or of their distances, nearest first.
        invariance_weight: λ.
        variance_weight: μ.
        covariance_weight: ν.

    Returns:
        A `Loss` with terms "local_invariance", "local_variance" and "local_covariance".

    Raises:
        UsageError: on fewer than 2 views, fewer than 2 images in the joined batch, or options that make no sense.
    """
    _check(maps, centers, matches, slot_order)
    tokens = [gather(upcast(m.flatten(2).transpose(1, 2))) for m in maps]
    points = [gather(c.flatten(1, 2)) for c in centers]
    sizes = [t.shape[1] for t in tokens]
    by_location = directions(sizes, matches, matches_by_crop_type=matches_by_crop_type)
    every = (max(sizes), max(sizes))
    by_feature = directions(sizes, matches if l2_top_k else every, matches_by_crop_type=matches_by_crop_type)

    @cache
    def spread_of_all(view: int) -> tuple[Tensor, Tensor]:
        return spread(tokens[view].transpose(0, 1))

    def compare(direction: Direction, found: Matches) -> Tensor:
        """Invariance, variance and covariance of one direction, (3,)."""
        source, target = tokens[direction.source], take(tokens[direction.target], found.target)
        if found.source is None:  # shared by every direction that keeps all of this view's cells
            source, (variance, covariance) = source.transpose(0, 1), spread_of_all(direction.source)
        else:
            source = take(source, found.source)
            variance, covariance = spread(source)
        other_variance, other_covariance = spread(target)
        return torch.stack(
            [invariance(source, target), (variance + other_variance) / 2, (covariance + other_covariance) / 2]
        )

    def average(
        pairs: dict[tuple[int, int], Counter[Direction]],
        positions: list[Tensor],
        distances: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Invariance, variance and covariance of one way of matching, (3,)."""
        compared = []
        for (i, j), counts in pairs.items():
            forth = distances(positions[i], positions[j])
            for direction, count in counts.items():
                found = closest(forth if direction.source == i else forth.mT, direction.k, slot_order)
                compared.append(count * compare(direction, found))
        return torch.stack(compared).sum(dim=0) / sum(counts.total() for counts in pairs.values())

    terms = average(by_feature, tokens, feature_distances) + average(by_location, points, point_distances)
    return Loss.of(
        {
            "local_invariance": invariance_weight * terms[0],
            "local_variance": variance_weight * terms[1],
            "local_covariance": covariance_weight * terms[2],
        }
    )


def vicregl_loss(
    embeddings: Sequence[Tensor],
    maps: Sequence[Tensor],
    centers: Sequence[Tensor],
    *,
    alpha: float = 0.9,
    matches: tuple[int, int] = (20, 4),
    l2_top_k: bool = True,
    matches_by_crop_type: bool = True,
    slot_order: SlotOrder = "index",
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Loss:
    """The VICRegL loss, α·global + (1−α)·local (Bardes, Ponce, LeCun 2022b), on the batch joined over processes.

    Args:
        embeddings: V tensors (B, D), see `vicregl_global_loss`; not looked at where α is 0.
        maps: V tensors (B, C, H, W), see `vicregl_local_loss`; not looked at where α is 1.
        centers: V tensors (B, H, W, 2), the source points of the maps' cells; not looked at where α is 1.
        alpha: the weight α of the global half, in [0, 1].
        matches: see `vicregl_local_loss`, as the other options.
        l2_top_k: as there.
        matches_by_crop_type: as there.
        slot_order: as there.
        invariance_weight: λ, of both halves.
        variance_weight: μ, of both halves.
        covariance_weight: ν, of both halves.

    Returns:
        A `Loss` with the terms of both halves, each times its α or 1−α.

    Raises:
        UsageError: if α is not in [0, 1], or as the two halves do.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha={alpha}: choose a weight of the global loss between 0 and 1")
    weights = {
        "invariance_weight": invariance_weight,
        "variance_weight": variance_weight,
        "covariance_weight": covariance_weight,
    }
    parts = []
    if alpha > 0:
        parts.append((alpha, vicregl_global_loss(embeddings, **weights)))
    if alpha < 1:
        local = vicregl_local_loss(
            maps,
            centers,
            matches=matches,
            l2_top_k=l2_top_k,
            matches_by_crop_type=matches_by_crop_type,
            slot_order=slot_order,
            **weights,
        )
        parts.append((1 - alpha, local))
    total = torch.stack([weight * loss.total for weight, loss in parts]).sum()
    return Loss(total, {name: weight * term for weight, loss in parts for name, term in loss.terms.items()})
