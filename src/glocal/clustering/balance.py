"""An order of samples in which every cluster comes equally often."""

from __future__ import annotations

import numpy as np

from glocal.random import derive


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
