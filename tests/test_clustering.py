"""k-means, whitening and balanced orders."""

import numpy as np
import pytest
import torch
from scipy.cluster.vq import kmeans2

from glocal import clustering
from glocal.clustering import (
    _first_centroids,
    assign,
    balanced_order,
    hierarchical_kmeans,
    kmeans,
    split_empty,
    whiten,
)
from glocal.distributed import rank, world_size
from glocal.errors import UsageError
from pretended import pretended
from processes import on_processes


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def blobs(k=5, each=40, dim=6):
    """Points around k far corners, shuffled, and where they belong."""
    corners = 10 * torch.eye(dim)[:k]
    label = torch.arange(k).repeat(each)
    return corners[label] + 0.1 * normal(k * each, dim), label


def error(x, clusters):
    return (x - clusters.centroids[clusters.assignment]).square().sum().item()


def test_lloyds_algorithm_is_scipys():
    x = normal(300, 4)
    ours = kmeans(x, 7, iterations=10, seed=3)
    centroids, _ = kmeans2(x.numpy(), _first_centroids(x, 7, 3, x.device).numpy(), iter=10, minit="matrix")
    torch.testing.assert_close(ours.centroids, torch.from_numpy(centroids), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.assignment, torch.cdist(x, ours.centroids).argmin(dim=1))


def test_error_falls_with_the_iterations():
    x = normal(500, 8)
    errors = [error(x, kmeans(x, 20, iterations=n)) for n in (0, 1, 3, 10)]
    assert errors == sorted(errors, reverse=True)


def test_spherical_centroids_are_mean_directions():
    x = torch.nn.functional.normalize(normal(200, 5), dim=1)
    clusters = kmeans(x, 6, iterations=50, spherical=True)
    torch.testing.assert_close(clusters.centroids.norm(dim=1), torch.ones(6))
    assert torch.equal(clusters.assignment, (x @ clusters.centroids.T).argmax(dim=1))
    for k in range(6):
        mean = torch.nn.functional.normalize(x[clusters.assignment == k].mean(dim=0), dim=0)
        torch.testing.assert_close(clusters.centroids[k], mean, rtol=1e-4, atol=1e-5)


def test_after_a_split_no_cluster_is_empty():
    x, _ = blobs()
    centroids = torch.cat([x[:2], torch.full((6, 6), 100.0)])
    counts = torch.bincount(assign(x, centroids), minlength=8)
    assert (counts == 0).sum() == 6
    split, halves = split_empty(centroids, counts, seed=0)
    assert halves.min() > 0
    assert halves.sum() == len(x)
    assert (split - centroids)[:2].norm() < 0.1
    assert torch.bincount(kmeans(x, 60).assignment, minlength=60).min() > 0


def test_fewer_different_images_than_clusters_still_end():
    clusters = kmeans(torch.ones(10, 3), 4)
    assert clusters.centroids.isfinite().all()
    with pytest.raises(UsageError, match="11 clusters of 10"):
        kmeans(torch.ones(10, 3), 11)


def test_two_levels_partition_each_part():
    x, label = blobs(k=4)
    part, sub = hierarchical_kmeans(x, 4, 3, seed=1)
    for number in part.unique():
        inside = x[part == number]
        assert set(sub[part == number].tolist()) == {0, 1, 2}
        assert len(inside) >= 3
    assert torch.equal(hierarchical_kmeans(x, 1, 3)[0], torch.zeros_like(label))


def test_whitened_covariance_is_the_identity():
    x = normal(400, 12) @ normal(12, 12, seed=1) + 50
    for z in (whiten(x, 12), whiten(x, 5)):
        torch.testing.assert_close(torch.cov(z.T, correction=0), torch.eye(z.shape[1]), rtol=0, atol=1e-5)
        torch.testing.assert_close(z.mean(dim=0), torch.zeros(z.shape[1]), rtol=0, atol=1e-5)
    leading = torch.linalg.svd(x - x.mean(dim=0), full_matrices=False).U[:, :5]
    torch.testing.assert_close((leading.T @ whiten(x, 5)).abs() / 20, torch.eye(5), rtol=0, atol=1e-3)


def test_whitening_in_parts_is_whitening(monkeypatch):
    x = normal(100, 6) @ normal(6, 6, seed=1) + 50
    whole = whiten(x, 4)
    monkeypatch.setattr(clustering, "CHUNK", 7)
    torch.testing.assert_close(whiten(x, 4).abs(), whole.abs())


def test_whitening_leaves_out_what_does_not_vary():
    x = normal(100, 3) @ normal(3, 10, seed=1)
    assert whiten(x, 8).shape == (100, 3)


@pytest.mark.parametrize("length", [1000, 999, 3000])
def test_every_cluster_is_served_equally_often(length):
    assignment = np.array([0] * 897 + [3] * 89 + [7] * 14 + [-1] * 5)
    order = balanced_order(assignment, length, seed=0, epoch=4)
    served = np.bincount(assignment[order], minlength=8)
    assert len(order) == length
    assert served[[0, 3, 7]].sum() == length
    assert np.ptp(served[[0, 3, 7]]) <= 1
    times = np.bincount(order, minlength=1000)
    for cluster in (0, 3, 7):
        assert np.ptp(times[:1000][assignment[:1000] == cluster]) <= 1
    assert not np.array_equal(order, balanced_order(assignment, length, seed=0, epoch=5))
    assert np.array_equal(order, balanced_order(assignment, length, seed=0, epoch=4))


def clustered():
    """All of it on this process's rows, of which the processes have different numbers."""
    x, _ = blobs(k=4)
    x = x + normal(*x.shape, seed=2)
    first = 0 if rank() == 0 else 100
    rows = x[first : 100 if world_size() == 2 and rank() == 0 else len(x)]
    flat = kmeans(rows, 9, seed=1)
    return flat.centroids, flat.assignment, *hierarchical_kmeans(rows, 3, 4, seed=1), whiten(rows, 4)


def test_two_processes_cluster_as_one():
    one = clustered()
    two = on_processes(2, clustered)
    torch.testing.assert_close(two[0][0], one[0], rtol=1e-4, atol=1e-4)
    assert torch.equal(two[0][0], two[1][0])
    for k in (1, 2, 3):
        assert torch.equal(torch.cat([two[0][k], two[1][k]]), one[k])
    torch.testing.assert_close(torch.cat([two[0][4], two[1][4]]), one[4], rtol=1e-4, atol=1e-4)


def test_a_device_is_given_a_part_of_the_features_at_a_time(monkeypatch):
    monkeypatch.setattr(clustering, "find_spec", lambda name: None)
    # whole numbers, whose sums are exact in any order
    x = torch.from_numpy(np.random.default_rng(0).integers(-8, 9, (150_000, 32))).float()
    here, white = kmeans(x, 5, iterations=2), whiten(x, 4)
    part, sub = hierarchical_kmeans(x, 2, 3, iterations=2)
    with pretended() as device:
        there = kmeans(x, 5, iterations=2, device=device.device)
        assert torch.equal(there.assignment.cpu(), here.assignment)
        assert torch.equal(there.centroids.cpu(), here.centroids)
        assert torch.equal(whiten(x, 4, device.device), white)
        levels = hierarchical_kmeans(x, 2, 3, iterations=2, device=device.device)
        assert [level.cpu().tolist() for level in levels] == [part.tolist(), sub.tolist()]
        assert device.peak < x.nbytes / 2


def test_mps_which_lacks_double_precision_has_the_cpu_do_it():
    x = normal(100, 6)
    there = torch.device("mps")  # which this machine need not have
    assert torch.equal(whiten(x, 3, there), whiten(x, 3))
    assert torch.equal(kmeans(x, 4, device=there).centroids, kmeans(x, 4).centroids)


def test_autocast_does_not_reach_distances():
    x = normal(400, 64) + 100
    exact = assign(x, x[:20])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(assign(x, x[:20]), exact)
