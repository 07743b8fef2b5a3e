"""VICRegL (Bardes, Ponce, LeCun 2022b): VICReg of whole views, and between matched locations of their feature maps.

Two views of an image are matched twice: by distance between their features and by distance between the source points
that their cells look at. In each direction every cell finds its nearest in the other map; the k closest of these pairs
are kept, in *slots*. VICReg is then applied to the matched features, with statistics over the batch for each slot.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby, product
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.distributed import exchange, rank, share, world_size
from glocal.errors import UsageError
from glocal.losses.covariance import invariance, joined_variance_and_covariance, variance_and_covariance, weighted
from glocal.losses.loss import Loss, check_shapes, upcast, without_autocast

SlotOrder = Literal["index", "distance"]


@dataclass(frozen=True)
class Group:
    """Views with equally large maps, next to each other in the concatenation of all maps' cells.

    `first` is where its cells begin, `cells` how many each of its views has, N.
    """

    first: int
    views: int
    cells: int

    def of(self, x: Tensor) -> Tensor:
        """Its part of (B, ΣN, ·), as (B, views, N, ·)."""
        return x[:, self.first : self.first + self.views * self.cells].unflatten(1, (self.views, self.cells))

    def starts(self, device: torch.device) -> Tensor:
        """The first cell of each of its views, (views,)."""
        return self.first + self.cells * torch.arange(self.views, device=device)


def view_pairs(sizes: Sequence[int]) -> list[tuple[Group, Group]]:
    """The unordered pairs of views that are compared, (0, 1) first and then 0 and 1 with each other, in few groups.

    Args:
        sizes: number of cells N of each view's map; the first two are those of the large crops.
    """
    alone = [Group(first, 1, n) for first, n in zip(accumulate(sizes, initial=0), sizes, strict=False)]
    grouped = []
    for part in (alone[:2], alone[2:]):
        runs = [list(run) for _, run in groupby(part, lambda group: group.cells)]
        grouped.append([Group(run[0].first, len(run), run[0].cells) for run in runs])
    return [(alone[0], alone[1]), *product(grouped[0], grouped[1])]


@torch.no_grad()
def feature_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between the features of two maps: (B, N, C), (B, M, C) -> (B, N, M), without gradient."""
    shift = b.mean(dim=1, keepdim=True)  # distances do not change, and the expansion below cancels less
    a, b = a - shift, b - shift
    with without_autocast(a):
        partial = torch.baddbmm(b.square().sum(dim=-1)[:, None, :], a, b.mT, alpha=-2)
    return partial.add_(a.square().sum(dim=-1)[:, :, None])


@torch.no_grad()
def point_distances(a: Tensor, b: Tensor) -> Tensor:
    """Squared distances between two sets of points: (B, N, 2), (B, M, 2) -> (B, N, M), without gradient."""
    # not by expansion: source coordinates are large, and their squares would drown differences below a pixel
    x, y = ((a[:, :, None, axis] - b[:, None, :, axis]) for axis in (0, 1))
    return x.square_().addcmul_(y, y)


@torch.no_grad()
def nearest_cells(
    a: Tensor, b: Tensor, distances: Callable[[Tensor, Tensor], Tensor], *, limit: int = 2**22
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The nearest cell, and how far it is, for each cell of P maps in each of Q others, and the reverse.

    One distance matrix serves both directions, a block of rows at a time, so that memory is linear in the maps.

    Args:
        a: (B, P, N, ·), the positions of N cells of each of P maps.
        b: (B, Q, M, ·).
        distances: (B, PN, ·), (B, QM, ·) -> (B, PN, QM).
        limit: how many distances to hold at once.

    Returns:
        Distances and indices (B, P, N, Q) from a to b, and (B, Q, M, P) from b to a.
    """
    (batch, views, cells), targets = a.shape[:3], b.flatten(1, 2)
    step = max(1, limit // (batch * views * targets.shape[1]))
    forth: list[tuple[Tensor, Tensor]] = []
    back: tuple[Tensor, Tensor] | None = None
    for start in range(0, cells, step):
        block = distances(a[:, :, start : start + step].flatten(1, 2), targets)
        block = block.unflatten(2, b.shape[1:3]).unflatten(1, (views, -1))  # (B, P, step, Q, M)
        forth.append(block.min(dim=4))
        value, index = block.min(dim=2)
        if back is not None:  # of equal distances the first counts, as in `min`
            index = torch.where(value < back[0], index + start, back[1])
            value = torch.minimum(value, back[0])
        back = value, index
    assert back is not None  # a map has a cell
    values, indices = (torch.cat(parts, dim=2) for parts in zip(*forth, strict=True))
    return (values, indices), (back[0].permute(0, 2, 3, 1), back[1].permute(0, 2, 3, 1))


def closest(distance: Tensor, target: Tensor, k: int, slot_order: SlotOrder) -> tuple[Tensor, Tensor]:
    """The `k` cells whose nearest target is nearest, and that target, by slot.

    Args:
        distance: (B, P, N, Q) from each cell of P maps to the nearest of each of Q maps.
        target: (B, P, N, Q), the index of that nearest cell.
        k: at most N.
        slot_order: whether a sample's slots follow the source cells' order or their distances, nearest first.

    Returns:
        Indices of source cells, (B, P, k, Q), or (B, P, N, 1) where every cell is kept, in order, for all Q; and of
        their targets, (B, P, k, Q).
    """
    cells = distance.shape[2]
    if k == cells and slot_order == "index":
        every = torch.arange(cells, device=target.device)[:, None]
        return every.expand(*target.shape[:2], cells, 1), target
    source = distance.argsort(dim=2, stable=True)[:, :, :k]
    if slot_order == "index":
        source = source.sort(dim=2).values
    return source, target.gather(2, source)


def take(tokens: Tensor, cells: Tensor) -> Tensor:
    """The features of each sample's own cells, by slot: (B, N, C), (B, K) -> (K, B, C)."""
    batch, size, _ = tokens.shape
    first = torch.arange(batch, device=cells.device)[:, None] * size
    # an embedding, because the backward of plain indexing adds in an order that differs from run to run
    return F.embedding((first + cells).T, tokens.flatten(0, 1))


@dataclass(frozen=True)
class CellMatches:
    """Matched cells of all maps, for every direction from one of P maps to one of Q others.

    Attributes:
        source: (B, P, K, Q) cells, or (B, P, K, 1) where they are the same for all Q.
        target: (B, P, K, Q) cells.
        weight: (K,), how much each slot counts.
    """

    source: Tensor
    target: Tensor
    weight: Tensor

    def weights(self, cells: Tensor) -> Tensor:
        """The weight of each slot of `source` or `target`, flat."""
        shared = self.target.shape[3] // cells.shape[3]
        return (shared * self.weight)[:, None].expand(cells.shape[1:]).flatten()


def find_matches(
    pairs: list[tuple[Group, Group]],
    positions: Tensor,
    distances: Callable[[Tensor, Tensor], Tensor],
    kept: tuple[int, int] | tuple[float, float],
    slot_order: SlotOrder,
    *,
    matches_by_crop_type: bool,
    like: Tensor,
) -> list[CellMatches]:
    """The matches of all pairs by one kind of position, (B, ΣN, ·).

    Args:
        pairs: those of `view_pairs`.
        positions: what distances are taken between.
        distances: `feature_distances` or `point_distances`.
        kept: how many matches to keep, at most N, or which fractions of N.
        slot_order: see `closest`.
        matches_by_crop_type: see `vicregl_local_loss`.
        like: a tensor of the type of the weights.
    """
    found = []
    for number, (a, b) in enumerate(pairs):
        forth, back = nearest_cells(a.of(positions), b.of(positions), distances)
        if number > 0:  # large crops and small ones, compared once
            counts: list[tuple[float, ...]] = [kept[:1], kept[1:]]
        else:  # the large crops, compared as (0, 1) and as (1, 0)
            counts = [(kept[0], kept[0 if matches_by_crop_type else 1])] * 2
        for source, target, (distance, index), ks in ((a, b, forth, counts[0]), (b, a, back, counts[1])):
            lost = 0 * distance.amax()  # NaN where a position is, else a cell without one would just not be kept
            for k, weight in slot_weights([count(k, source.cells) for k in ks], slot_order, like):
                cells, others = closest(distance, index, k, slot_order)
                first = source.starts(cells.device)[:, None, None]
                found.append(CellMatches(first + cells, target.starts(cells.device) + others, weight + lost))
    return found


def count(kept: float, cells: int) -> int:
    """How many of `cells` to keep: a number of them, or a fraction."""
    return min(kept, cells) if isinstance(kept, int) else max(1, round(kept * cells))


def slot_weights(ks: list[int], slot_order: SlotOrder, like: Tensor) -> Iterator[tuple[int, Tensor]]:
    """What to match for comparisons of one direction that keep `ks` each: numbers K, and the weight (K,) of the slots.

    By distance, the slots of a smaller k are the first ones of a larger; by index, only equal numbers share slots.
    """
    for shared in [ks] if slot_order == "distance" else [[k] * ks.count(k) for k in set(ks)]:
        weight = like.new_zeros(max(shared))
        for k in shared:
            weight[:k] += 1 / k
        yield max(shared), weight


def _check_views(views: int) -> None:
    if views < 2:
        raise UsageError(f"VICRegL compares views of the same image and got {views}; give at least 2")


def _check(maps: Sequence[Tensor], centers: Sequence[Tensor], matches: tuple[float, float], slot_order: str) -> None:
    _check_views(len(maps))
    if len(maps) != len(centers):
        raise UsageError(f"got {len(maps)} maps and {len(centers)} grids of centers; give one grid for each map")
    for view, (m, c) in enumerate(zip(maps, centers, strict=True)):
        first = {"the map of view 0": (maps[0], "B C H0 W0")} if view else {}
        check_shapes(**first, **{f"the map of view {view}": (m, "B C H W"), "its centers": (c, "B H W 2")})
    if any(k < 1 if isinstance(k, int) else not 0 < k <= 1 for k in matches):
        raise UsageError(f"matches={matches}: keep at least 1 match in each direction, or a fraction of up to 1.0")
    if slot_order not in ("index", "distance"):
        raise UsageError(f"slot_order={slot_order!r}: choose 'index' or 'distance'")


def vicregl_global_loss(
    embeddings: Sequence[Tensor],
    *,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Loss:
    """The global half of the VICRegL loss, on the batch joined over processes.

    Invariance is averaged over the 2(V−1) comparisons of views i in {0, 1} with every j ≠ i, variance and covariance
    over the views (so that the effective weight of the covariance is half that of `vicreg_loss`, which sums it over its
    two views).

    Args:
        embeddings: V ≥ 2 tensors (B, D); the first two are those of the large crops.
        invariance_weight, variance_weight, covariance_weight: λ, μ, ν.

    Returns:
        A `Loss` with terms "global_invariance", "global_variance" and "global_covariance".
    """
    views = len(embeddings)
    _check_views(views)
    check_shapes(**{f"view {k}": (each, "B D") for k, each in enumerate(embeddings)})
    z = torch.stack([upcast(z) for z in embeddings])
    a, b = z[0], z[1]
    distances = 2 * invariance(a, b)
    if views > 2:  # ‖a − z‖² + ‖b − z‖² = 2‖(a + b)/2 − z‖² + ½‖a − b‖²: half the comparisons with small views
        distances = (2 + (views - 2) / 2) * invariance(a, b) + 2 * (views - 2) * invariance((a + b) / 2, z[2:])
    variance, covariance = joined_variance_and_covariance(z)
    terms = torch.stack([distances / (2 * (views - 1) * world_size()), variance.mean(), covariance.mean()])
    return Loss.of(weighted("global_", terms, invariance_weight, variance_weight, covariance_weight))


def vicregl_local_loss(
    maps: Sequence[Tensor],
    centers: Sequence[Tensor],
    *,
    matches: tuple[int, int] | float = (20, 4),
    l2_top_k: bool = True,
    matches_by_crop_type: bool = True,
    slot_order: SlotOrder = "index",
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
) -> Loss:
    """The local half of the VICRegL loss, on the batch joined over processes.

    λ·MSE(x, y) + μ·½[v(x) + v(y)] + ν·½[c(x) + c(y)] between matched features x and y, averaged over the 2(V−1)
    comparisons of views i in {0, 1} with every j ≠ i and the two directions of each; matching by feature and matching
    by location are added. The `variance_hinge` v and the `covariance_penalty` c are taken over the batch for each slot,
    and averaged over slots.

    Args:
        maps: V projected maps (B, C, H, W), each of its own size; the first two are those of the large crops.
        centers: V grids (B, H, W, 2), the source points that their cells look at, as (x, y) in source pixels.
        matches: how many matches to keep for a large and for a small source crop, at most as many as it has cells; or
            the fraction of its cells.
        l2_top_k: whether matching by feature keeps that many as well, as the authors intended; else it keeps every
            cell, as their code does by default.
        matches_by_crop_type: whether `matches` are those of large source crops (views 0 and 1) and of small ones, as in
            the paper, or those of i→j and of j→i, as in the authors' code.
        slot_order: whether the kept matches fill a sample's slots in the order of their cells, as in the authors' code,
            or of their distances, nearest first.
        invariance_weight, variance_weight, covariance_weight: λ, μ, ν.

    Returns:
        A `Loss` with terms "local_invariance", "local_variance" and "local_covariance".

    Raises:
        UsageError: on fewer than 2 views, fewer than 2 images in the joined batch, or options that make no sense.
    """
    kept = matches if isinstance(matches, Sequence) else (matches, matches)
    _check(maps, centers, kept, slot_order)
    pairs = view_pairs([m.shape[2] * m.shape[3] for m in maps])
    tokens = torch.cat([upcast(m.flatten(2).transpose(1, 2)) for m in maps], dim=1)
    points = upcast(torch.cat([c.flatten(1, 2) for c in centers], dim=1))
    options: dict[str, Any] = {"matches_by_crop_type": matches_by_crop_type, "like": tokens.detach()}
    by_feature = kept if l2_top_k else (1.0, 1.0)
    found = find_matches(pairs, tokens.detach(), feature_distances, by_feature, slot_order, **options)
    found += find_matches(pairs, points, point_distances, kept, slot_order, **options)

    # each process matches its own samples; then each takes the statistics of some of the slots, of all samples
    sides = [cells for m in found for cells in (m.source, m.target)]
    slots = take(tokens, torch.cat([cells.flatten(1) for cells in sides], dim=1))
    weights = torch.cat([m.weights(cells) for m in found for cells in (m.source, m.target)])
    variance, covariance = variance_and_covariance(exchange(slots))
    weights = weights.split(share(len(weights)))[rank()] / 2
    by_side = [
        x.unflatten(0, c.shape[1:]) for x, c in zip(slots.split([c[0].numel() for c in sides]), sides, strict=True)
    ]
    squares = [
        ((x - y).square().sum(dim=(0, 2, 3, 4)) * m.weight).sum()
        for x, y, m in zip(by_side[::2], by_side[1::2], found, strict=True)
    ]
    distance = torch.stack(squares).sum() / slots[0].numel() / world_size()
    # sums of products, since autocast would take a dot product in half precision
    spreads = ((weights * variance).sum(), (weights * covariance).sum())
    terms = torch.stack([distance, *spreads]) / (4 * len(maps) - 4)
    return Loss.of(weighted("local_", terms, invariance_weight, variance_weight, covariance_weight))


def vicregl_loss(
    embeddings: Sequence[Tensor],
    maps: Sequence[Tensor],
    centers: Sequence[Tensor],
    *,
    alpha: float = 0.9,
    invariance_weight: float = 25.0,
    variance_weight: float = 25.0,
    covariance_weight: float = 1.0,
    **matching: Any,
) -> Loss:
    """The VICRegL loss, α·global + (1−α)·local (Bardes, Ponce, LeCun 2022b), on the batch joined over processes.

    Args:
        embeddings: V tensors (B, D), see `vicregl_global_loss`; not looked at where α is 0.
        maps: V tensors (B, C, H, W), see `vicregl_local_loss`; not looked at where α is 1.
        centers: V tensors (B, H, W, 2), the source points of the maps' cells; not looked at where α is 1.
        alpha: the weight α of the global half, in [0, 1].
        invariance_weight, variance_weight, covariance_weight: λ, μ, ν, of both halves.
        matching: the other options of `vicregl_local_loss`.

    Returns:
        A `Loss` with the terms of both halves, each times its α or 1−α.
    """
    if not 0 <= alpha <= 1:
        raise UsageError(f"alpha={alpha}: choose a weight of the global loss between 0 and 1")
    weights: dict[str, Any] = {
        "invariance_weight": invariance_weight,
        "variance_weight": variance_weight,
        "covariance_weight": covariance_weight,
    }
    parts = []
    if alpha > 0:
        parts.append((alpha, vicregl_global_loss(embeddings, **weights)))
    if alpha < 1:
        parts.append((1 - alpha, vicregl_local_loss(maps, centers, **weights, **matching)))
    total = torch.stack([weight * loss.total for weight, loss in parts]).sum()
    return Loss(total, {name: weight * term for weight, loss in parts for name, term in loss.terms.items()})
