"""The contrastive and correlation losses as their papers write them: loops over samples and dimensions, float64."""

import torch


def cosine(x, y):
    return (x @ y) / (x.norm() * y.norm())


def nt_xent(z_a, z_b, temperature, *, decoupled=False, weights=None):
    """SimCLR, eq. 1, over the 2N views; DCL leaves the positive out of the denominator."""
    n = len(z_a)
    views = [*z_a, *z_b]
    losses = []
    for i in range(2 * n):
        partner = (i + n) % (2 * n)
        positive = cosine(views[i], views[partner]) / temperature
        others = [k for k in range(2 * n) if k != i and not (decoupled and k == partner)]
        denominator = sum(torch.exp(cosine(views[i], views[k]) / temperature) for k in others)
        weight = 1 if weights is None else weights[i % n]
        losses.append(-weight * positive + torch.log(denominator))
    return torch.stack(losses).mean()


def mises_fisher(z_a, z_b, sigma):
    e = [torch.exp(cosine(a, b) / sigma) for a, b in zip(z_a, z_b, strict=True)]
    return [2 - x / (sum(e) / len(e)) for x in e]


def contrast(queries, keys, temperature, *, decoupled=False):
    losses = []
    for i in range(len(queries)):
        logits = [cosine(queries[i], keys[j]) / temperature for j in range(len(keys))]
        others = [logit for j, logit in enumerate(logits) if not (decoupled and j == i)]
        losses.append(-logits[i] + torch.log(sum(torch.exp(logit) for logit in others)))
    return torch.stack(losses).mean()


def contrast_queue(queries, keys, negatives, temperature, same):
    """He et al. 2020, eq. 1, by dot products of the vectors as they are, without those of the query's own sample."""
    losses = []
    for n, (query, key) in enumerate(zip(queries, keys, strict=True)):
        own = query @ key / temperature
        others = [query @ negative / temperature for j, negative in enumerate(negatives) if not same[n][j]]
        losses.append(-own + torch.log(torch.exp(own) + sum(torch.exp(logit) for logit in others)))
    return torch.stack(losses).mean()


def contrast_pairs(a, b, what, temperature):
    """Both directions of the softmax over the pair itself and those of other texts, pair by pair."""
    losses = []
    for i in range(len(a)):
        others = [j for j in range(len(a)) if j == i or what[j] != what[i]]
        own = cosine(a[i], b[i]) / temperature
        for logits in ([cosine(a[i], b[j]) for j in others], [cosine(a[j], b[i]) for j in others]):
            losses.append(torch.log(sum(torch.exp(logit / temperature) for logit in logits)) - own)
    return torch.stack(losses).mean()


def contrast_hard(queries, keys, hard, there, temperature):
    """Momeni et al. 2023: own negatives in the denominator, over the log of how many candidates there are."""
    losses = []
    for i in range(len(queries)):
        own = [cosine(queries[i], hard[i, n]) / temperature for n in range(hard.shape[1]) if there[i, n]]
        logits = [cosine(queries[i], key) / temperature for key in keys]
        found = -logits[i] + torch.log(sum(torch.exp(logit) for logit in logits + own))
        losses.append(found / torch.log(torch.tensor(float(len(logits + own)))))
    return torch.stack(losses).mean()


def barlow_twins(z_a, z_b, redundancy_weight, eps=1e-5):
    """Invariance and weighted redundancy, entry by entry of the cross-correlation matrix."""
    n, d = z_a.shape
    invariance, redundancy = 0.0, 0.0
    for i in range(d):
        for j in range(d):
            a, b = z_a[:, i] - sum(z_a[:, i]) / n, z_b[:, j] - sum(z_b[:, j]) / n
            a, b = a / torch.sqrt(sum(a**2) / n + eps), b / torch.sqrt(sum(b**2) / n + eps)
            c = sum(a * b) / n
            if i == j:
                invariance = invariance + (1 - c) ** 2
            else:
                redundancy = redundancy + c**2
    return invariance, redundancy_weight * redundancy
