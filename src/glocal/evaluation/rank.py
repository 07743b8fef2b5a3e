"""How many directions a representation uses, and how alike its features are. No labels needed."""

import torch
import torch.nn.functional as F
from torch import Tensor


def _rows(features: Tensor) -> Tensor:
    features = features.detach()
    # float64: a Gram matrix has squared singular values; fp32 would drown those under 1e-3 of the first
    return (features.cpu() if features.device.type == "mps" else features).double()


def spectrum(features: Tensor, *, centred: bool = False) -> Tensor:
    """Singular values (min(N, D),) of features (N, D), largest first, in float64.

    They are divided by their sum; all zeros where the features are.

    Args:
        features: (N, D).
        centred: subtract the mean feature first (principal components rather than RankMe's convention).
    """
    x = _rows(features)
    if centred:
        x = x - x.mean(0)
    gram = x @ x.T if x.shape[0] < x.shape[1] else x.T @ x  # the smaller one
    values = torch.linalg.eigvalsh(gram).clamp_min(0).sqrt().flip(0)
    values = torch.where(values > values[0] * 1e-7, values, 0.0)  # rounding of the squared spectrum
    return values / values.sum().clamp_min(torch.finfo(torch.float64).tiny)


def rankme(features: Tensor, *, centred: bool = False) -> float:
    """RankMe, the effective rank of features (N, D), 1 to min(N, D); compare only numbers from equal N.

    It is exp of the entropy of the normalised singular values (Garrido et al. 2023).
    """
    return float(torch.special.entr(spectrum(features, centred=centred)).sum().exp())


def redundancy(features: Tensor) -> float:
    """Mean absolute correlation between dimensions of features (N, D), 0 (independent) to 1 (copies of one another).

    Dimensions that never vary are left out. Computed in blocks of columns, so D×D is never held at once.
    """
    x = _rows(features)
    x = x - x.mean(0)
    norm = x.norm(dim=0)
    x = x[:, norm > 1e-6 * norm.max()]
    dims = x.shape[1]
    if dims < 2 or not bool(norm.max() > 0):
        return 1.0
    x = x / x.norm(dim=0)
    total = sum(float((block.T @ x).abs().sum()) for block in x.split(1024, dim=1))
    return (total - dims) / (dims * (dims - 1))


def spread(features: Tensor) -> float:
    """Deviation of L2-normalised features (N, D) times √D: about 1 for isotropic ones, 0 if all are the same."""
    return float(F.normalize(_rows(features), dim=1).std(0, correction=0).square().sum().sqrt())


def similarity_within(maps: Tensor) -> tuple[float, float]:
    """Mean cosine similarity between the locations of one image, and between those of different images.

    Of maps (B, D, H, W), B ≥ 2 and H·W ≥ 2. Within ≫ between: locations say which image, little about where.
    """
    tokens = F.normalize(_rows(maps).flatten(2), dim=1)
    images, _, cells = tokens.shape
    sums = tokens.sum(2)
    same = sums.square().sum()
    every = sums.sum(0).square().sum()
    within = (same - images * cells) / (images * cells * (cells - 1))
    between = (every - same) / (images * (images - 1) * cells**2)
    return float(within), float(between)
