"""The losses said again, slowly: a loop for each sum over views, cells and slots, nothing shared, nothing clever."""

import math

import numpy as np
import torch


def mse(x, y):
    return ((x - y) ** 2).sum() / x.numel()


def hinge(z):
    """mean_d relu(1 − √(var_d + 1e-4)) of (B, D)."""
    variance = ((z - z.mean(0)) ** 2).sum(0) / (len(z) - 1)
    return torch.relu(1 - torch.sqrt(variance + 1e-4)).sum() / len(variance)


def penalty(z):
    """Σ_{i≠j} C²_ij / D of (B, D)."""
    centred = z - z.mean(0)
    squares = (centred.T @ centred / (len(z) - 1)) ** 2
    return (squares.sum() - squares.trace()) / z.shape[1]


def vicreg(z_a, z_b):
    """Invariance, variance and covariance, weighted."""
    return 25 * mse(z_a, z_b), 25 * (hinge(z_a) + hinge(z_b)) / 2, penalty(z_a) + penalty(z_b)


def global_loss(embeddings):
    views = len(embeddings)
    distances = [mse(embeddings[i], embeddings[j]) for i in (0, 1) for j in range(views) if j != i]
    return (
        25 * sum(distances) / len(distances),
        25 * sum(hinge(z) for z in embeddings) / views,
        sum(penalty(z) for z in embeddings) / views,
    )


def find(source, target, k, slot_order):
    """Per sample, the k closest (source cell, target cell), by what is given of them: (B, N, ·), (B, M, ·)."""
    matches = []
    for a, b in zip(source, target, strict=True):
        found = []
        for n, cell in enumerate(a):
            distance = [math.dist(cell, other) for other in b]
            found.append((min(distance), n, int(np.argmin(distance))))
        kept = sorted(found)[:k]
        if slot_order == "index":
            kept.sort(key=lambda match: match[1])
        matches.append([(n, m) for _, n, m in kept])
    return matches


def one_direction(source, target, by_source, by_target, k, slot_order):
    """VICReg, slot by slot, of the features that one direction matches."""
    matches = find(by_source, by_target, min(k, source.shape[1]), slot_order)
    terms = []
    for slot in range(len(matches[0])):
        x = torch.stack([source[b, found[slot][0]] for b, found in enumerate(matches)])
        y = torch.stack([target[b, found[slot][1]] for b, found in enumerate(matches)])
        terms.append((25 * mse(x, y), 25 * (hinge(x) + hinge(y)) / 2, (penalty(x) + penalty(y)) / 2))
    return [sum(slots) / len(slots) for slots in zip(*terms, strict=True)]


def local_loss(maps, centers, *, matches, l2_top_k, matches_by_crop_type, slot_order):
    tokens = [torch.stack([m[:, :, r, c] for r in range(m.shape[2]) for c in range(m.shape[3])], dim=1) for m in maps]
    features = [t.detach().numpy() for t in tokens]
    points = [
        torch.stack([c[:, i, j] for i in range(c.shape[1]) for j in range(c.shape[2])], 1).numpy() for c in centers
    ]
    comparisons = []
    for i in (0, 1):
        for j in range(len(maps)):
            if i == j:
                continue
            k = {(i, j): matches[0], (j, i): matches[1]}
            if matches_by_crop_type:
                k = {(a, b): matches[0] if a in (0, 1) else matches[1] for a, b in k}
            both_ways = []
            for a, b in ((i, j), (j, i)):
                l2_k = k[a, b] if l2_top_k else 10**9
                by_feature = one_direction(tokens[a], tokens[b], features[a], features[b], l2_k, slot_order)
                by_location = one_direction(tokens[a], tokens[b], points[a], points[b], k[a, b], slot_order)
                both_ways.append([f + p for f, p in zip(by_feature, by_location, strict=True)])
            comparisons.append([(forth + back) / 2 for forth, back in zip(*both_ways, strict=True)])
    return [sum(terms) / len(comparisons) for terms in zip(*comparisons, strict=True)]
