"""Clusters of features, over all processes: PCA whitening, k-means, orders that serve every cluster equally often.

The nearest centroids are found by faiss where it is installed and the features are in main memory, else by torch. Sums
are taken in a fixed order, so that the same features give the same clusters again, on a GPU too. Features may stay in
main memory: a part at a time goes to the `device` that computes.
"""

from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from glocal.distributed import all_sum, gather, rank
from glocal.errors import UsageError
from glocal.losses import without_autocast
from glocal.random import derive, permutation, uniform

CHUNK = 8192
"""Rows at a time that are compared with all centroids, or held in double precision."""


@torch.no_grad()
def whiten(x: Tensor, dim: int, device: torch.device | None = None) -> Tensor:
    """The leading principal components, each with variance 1 over the rows of all processes: (N, D) -> (N, d) float32.

    d is `dim`, or the rank of the features where that is less: components without variance would be noise.

    Args:
        x: (N, D), this process's rows. Processes may hold different numbers of them.
        dim: components to keep.
        device: computes; None: where x is. The result is where x is.
    """
    device, parts = _able(device or x.device), x.split(CHUNK)
    total = all_sum(torch.tensor([float(len(x))], dtype=torch.float64, device=device))
    mean = all_sum(torch.stack([part.to(device).double().sum(dim=0) for part in parts]).sum(dim=0)) / total
    covariance = mean.new_zeros(x.shape[1], x.shape[1])
    for part in parts:  # a covariance of fp32 sums loses the small components
        centred = part.to(device).double() - mean
        covariance.addmm_(centred.mT, centred)
    variances, axes = torch.linalg.eigh(all_sum(covariance) / total)
    variances, axes = variances.flip(0)[:dim], axes.flip(1)[:, :dim]
    kept = int((variances > 1e-7 * variances[0]).sum())
    scaled = axes[:, :kept] * variances[:kept].rsqrt()
    white = torch.empty(len(x), kept, device=x.device)
    for part, rows in zip(parts, white.split(CHUNK), strict=True):
        rows.copy_((part.to(device).double() - mean) @ scaled)
    return white


@dataclass(frozen=True)
class Clusters:
    """A partition.

    Attributes:
        centroids: (K, D), the same on all processes.
        assignment: (N,) int64, the cluster of each of this process's rows. Both are on the device that computed them.
    """

    centroids: Tensor
    assignment: Tensor


@torch.no_grad()
def kmeans(
    x: Tensor,
    k: int,
    *,
    iterations: int = 20,
    seed: int = 0,
    spherical: bool = False,
    device: torch.device | None = None,
) -> Clusters:
    """Lloyd's algorithm from k random rows; a cluster that empties takes a part of another (see `split_empty`).

    Args:
        x: (N, D) float32, this process's rows. Processes may hold different numbers of them, or none.
        k: K, number of clusters.
        iterations: of assigning and averaging.
        seed: of the first centroids and of the splits.
        spherical: keep centroids on the unit sphere; for rows that are there too.
        device: computes; None: where x is.

    Raises:
        UsageError: if all processes together have fewer than K rows.
    """
    centroids = _first_centroids(x, k, seed, _able(device or x.device))
    for iteration in range(iterations):
        sums, counts = _cluster_sums(x, assign(x, centroids), k)
        centroids = sums / counts.clamp_min(1)[:, None]
        centroids, _ = split_empty(centroids, counts, derive(seed, "split", iteration))
        if spherical:
            centroids = F.normalize(centroids, dim=1)
    return Clusters(centroids, assign(x, centroids))


@torch.no_grad()
def hierarchical_kmeans(
    x: Tensor, parts: int, k: int, *, iterations: int = 20, seed: int = 0, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """Clusters of clusters: `parts` of them, and inside each of these k more (fewer where it has not as many rows).

    Args:
        x: (N, D) float32, this process's rows.
        parts: number of super-clusters.
        k: sub-clusters in each.
        iterations, seed, device: see `kmeans`.

    Returns:
        The super-cluster, 0 to parts − 1, and the sub-cluster in it, 0 to k − 1, of each row; (N,) int64 each.
    """
    settings: dict[str, Any] = {"iterations": iterations, "device": device}
    part = kmeans(x, parts, seed=seed, **settings).assignment
    sub = torch.zeros_like(part)
    sizes = all_sum(torch.bincount(part, minlength=parts)).tolist()
    for number, size in enumerate(sizes):
        if size:
            rows = part == number
            inside = kmeans(x[rows.to(x.device)], min(k, size), seed=derive(seed, "inside", number), **settings)
            sub[rows] = inside.assignment
    return part, sub


def assign(x: Tensor, centroids: Tensor) -> Tensor:
    """The index of the centroid (K, D) at the least Euclidean distance of each row (N, D), (N,) int64.

    Computed where the centroids are, and left there.
    """
    if centroids.device.type == "cpu" and find_spec("faiss"):
        import faiss

        index = faiss.IndexFlatL2(centroids.shape[1])
        index.add(centroids.contiguous().numpy())
        return torch.from_numpy(index.search(x.contiguous().numpy(), 1)[1][:, 0])
    offset = centroids.square().sum(dim=1) / 2  # ‖x − c‖² = ‖x‖² − 2·(x·c − ‖c‖²/2)
    with without_autocast(offset):
        return torch.cat([(rows.to(offset.device) @ centroids.mT - offset).argmax(dim=1) for rows in x.split(CHUNK)])


def split_empty(centroids: Tensor, counts: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Give each empty cluster half of another, which is drawn with a chance that grows with its size.

    Both get the other's centroid, moved apart by a thousandth of its length in a random direction (DeeperCluster moves
    them by 1e-7, which single precision may not see), and half of its count.

    Args:
        centroids: (K, D).
        counts: (K,) int64.
        seed: of the draws.

    Returns:
        The new centroids and counts; none is empty unless there are fewer rows than clusters.
    """
    centroids, sizes = centroids.clone(), counts.tolist()
    for empty in (i for i, size in enumerate(sizes) if size == 0):
        spare = torch.tensor(sizes, dtype=torch.float64).sub(1).clamp_min(0).cumsum(0)
        if spare[-1] == 0:
            break
        draw = float(uniform(seed, "donor", empty, n=1)[0]) * spare[-1]
        donor = int(torch.searchsorted(spare, draw, right=True))
        shift = torch.from_numpy(uniform(seed, "direction", empty, n=centroids.shape[1]) - 0.5).to(centroids)
        shift = 1e-3 * centroids[donor].norm().clamp_min(1e-6) * F.normalize(shift, dim=0)
        centroids[empty] = centroids[donor] + shift
        centroids[donor] -= shift
        sizes[empty] = sizes[donor] // 2
        sizes[donor] -= sizes[empty]
    return centroids, torch.tensor(sizes, device=counts.device)


def balanced_order(assignment: np.ndarray, length: int, seed: int, epoch: int) -> np.ndarray:
    """Sample ids such that each non-empty cluster is served equally often, to one, in random order, (length,) int64.

    Samples of a large cluster come at most once, those of a small one again and again. (The authors' sampler of
    DeepCluster yields sample ids where places in the order of clusters are expected, and so serves clusters in
    proportion to their size.)

    Args:
        assignment: (N,) integers, the cluster of each sample; negative for samples that are not to be served.
        length: number of samples to serve.
        seed: of the order.
        epoch: likewise.
    """
    generator = np.random.default_rng(derive(seed, "balanced order", epoch))
    shuffled = generator.permutation(np.flatnonzero(assignment >= 0))
    by_cluster = shuffled[np.argsort(assignment[shuffled], kind="stable")]
    _, starts, sizes = np.unique(assignment[by_cluster], return_index=True, return_counts=True)
    round_, cluster = np.divmod(np.arange(length), len(sizes))
    cluster = generator.permutation(len(sizes))[cluster]
    return generator.permutation(by_cluster[starts[cluster] + round_ % sizes[cluster]])


def _cluster_sums(x: Tensor, assignment: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The sum (K, D) and the number (K,) of the rows of each cluster, over all processes; where the assignment is."""
    at_once = max(CHUNK, k) if x.device != assignment.device else max(1, len(x))
    sums: Any = 0
    for part, clusters in zip(x.split(at_once), assignment.split(at_once), strict=True):
        in_order = part.to(clusters.device)[clusters.argsort(stable=True)]
        sums += torch.segment_reduce(in_order, "sum", lengths=torch.bincount(clusters, minlength=k), axis=0)
    return all_sum(sums), all_sum(torch.bincount(assignment, minlength=k))


def _able(device: torch.device) -> torch.device:
    """The CPU in place of MPS, which has neither double precision nor `segment_reduce`."""
    return torch.device("cpu") if device.type == "mps" else device


def _first_centroids(x: Tensor, k: int, seed: int, device: torch.device) -> Tensor:
    """K different rows of those of all processes, drawn at random, on all processes."""
    rows = gather(torch.tensor([len(x)], device=device))
    total, before = int(rows.sum()), int(rows[: rank()].sum())
    if total < k:
        raise UsageError(f"{k} clusters of {total} images: choose at most as many clusters as there are images")
    drawn = torch.from_numpy(permutation(total, seed, "first centroids")[:k]).to(x.device) - before
    mine = (drawn >= 0) & (drawn < len(x))
    centroids = x.new_zeros(k, x.shape[1])
    centroids[mine] = x[drawn[mine]]
    return all_sum(centroids.to(device))
