"""In how many directions features vary, and of how many dimensions the surface is that they lie on."""

import torch
from torch import Tensor

from glocal.errors import UsageError
from glocal.evaluation.context import EvalContext
from glocal.evaluation.rank import rankme, spectrum
from glocal.evaluation.registry import task
from glocal.evaluation.split import spread_positions

ROWS = 1024


def neighbour_distances(x: Tensor, k: int) -> Tensor:
    """Distances (N, k) of rows (N, D) to their k nearest others, nearest first; rows that have a twin are left out."""
    far = [torch.cdist(rows, x, compute_mode="donot_use_mm_for_euclid_dist") for rows in x.split(ROWS)]
    near = torch.cat([rows.topk(k + 1, largest=False).values[:, 1:] for rows in far])
    return near[near[:, 0] > 0]


def two_nearest(distances: Tensor, kept: float = 0.9) -> float:
    """Intrinsic dimension from r₂/r₁ of each point's two nearest neighbours, of distances (N, ≥ 2).

    TwoNN (Facco et al. 2017, arXiv:1803.06992): −ln(1 − F(µ)) = d·ln µ, a line through the origin, fitted to the share
    `kept` of the smaller ratios.
    """
    ratios = (distances[:, 1] / distances[:, 0]).log().sort().values
    number = int(kept * len(ratios))
    x = ratios[:number]
    y = -torch.log1p(-torch.arange(1, number + 1, dtype=x.dtype) / len(ratios))
    return float((x @ y) / (x @ x))


def likeliest(distances: Tensor) -> float:
    """Intrinsic dimension of largest likelihood, of distances (N, k) to the k nearest neighbours.

    Levina and Bickel 2004, with the mean over points of the inverse (MacKay and Ghahramani 2005).
    """
    k = distances.shape[1]
    inverse = (distances[:, -1:] / distances[:, :-1]).log().sum(1) / (k - 1)
    return float(1 / inverse.mean())


@task(
    on_request=True,
    title="Dimension",
    words={
        "effective": "effective rank",
        "directions": "directions with over 1% of the largest variance",
        "two_nn": "intrinsic dimension, by two nearest neighbours",
        "mle": "intrinsic dimension, by likelihood",
    },
)
def dimension(context: EvalContext, *, images: int = 5000, k: int = 20) -> dict:
    """In how many dimensions pooled features vary. No labels needed.

    The singular values of the centred features say in how many directions: exp of their entropy (`rankme`), and how
    many have over 1% of the largest variance. Distances to the k nearest neighbours say of how many dimensions the
    surface is on which they lie, however it is bent: at most as many. Of at most `images` training images.

    Returns:
        effective; directions; two_nn; mle; dim, all there are; images; singular_values, the largest 64, as shares of
        their sum.
    """
    pooled = context.bank("train").pooled
    x = pooled[torch.from_numpy(spread_positions(len(pooled), images))].double()
    if len(x) <= max(k, 3) + 1:
        raise UsageError(f"dimension looks at {k} neighbours of each image; {len(x)} images are too few")
    values = spectrum(x, centred=True)
    near = neighbour_distances(x, max(k, 3))
    if len(near) < 10 or not values.sum() > 0:
        raise UsageError("dimension: the features of nearly all images are the same")
    return {
        "effective": rankme(x, centred=True),
        "directions": float((values > 0.1 * values[0]).sum()),
        "two_nn": two_nearest(near),
        "mle": likeliest(near),
        "dim": x.shape[1],
        "images": len(x),
        "singular_values": values[:64].tolist(),
    }
