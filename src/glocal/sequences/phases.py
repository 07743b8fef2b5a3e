"""The phase of every frame of a video, by a random walk over its frames (Hirsch et al. 2023, arXiv:2310.17209).

Frames are nodes, alike ones strongly linked. From a frame without a mark a walker goes on until it meets a marked one:
the phase that it most probably meets is the frame's (Grady 2006). All probabilities are one sparse linear system.
"""

import numpy as np
from scipy.sparse import coo_array, csc_array, diags_array
from scipy.sparse.linalg import splu
from scipy.spatial.distance import pdist

from glocal.errors import UsageError

FAINTEST = 1e-9
"""The least weight of a link, so that every frame can be reached from a mark."""
SAMPLE = 500
"""Frames, spread evenly, between which the usual distance is measured."""


def similarity(features: np.ndarray, *, beta: float = 30.0, window: int = 1, neighbours: int = 0) -> csc_array:
    """The weights (N, N) of the links between frames, symmetric, 0 on the diagonal.

    w_ij = exp(−β ‖f_i − f_j‖² / s²), with s the median distance of two frames of the video, linked or not (if
    most are the same, of two that differ).

    Args:
        features: (N, D) of frames in the order of time.
        beta: β, how fast links fade with distance.
        window: each frame is linked with so many before and after it.
        neighbours: and with so many of those that are nearest to it, wherever they are.

    Raises:
        UsageError: for features that are not finite, or of fewer than two frames.
    """
    features = np.asarray(features, np.float32)
    number = len(features)
    if number < 2:
        raise UsageError(f"a video of {number} frame{'s' * (number != 1)} has no phases")
    if not np.isfinite(features).all():
        raise UsageError("the features of the video are not finite")
    frame = np.arange(number)
    pairs = [np.stack([frame[:-k], frame[k:]], 1) for k in range(1, min(window, number - 1) + 1)]
    if neighbours:
        pairs.append(_nearest(features, min(neighbours, number - 1)))
    a, b = np.unique(np.sort(np.concatenate(pairs), axis=1), axis=0).T
    squared = np.square(features[a] - features[b], dtype=np.float64).sum(1)
    some = features[np.linspace(0, number - 1, min(number, SAMPLE)).astype(int)]
    apart = pdist(some, "sqeuclidean")
    scale = (float(np.median(apart)) or float(np.median(apart[apart > 0]))) if apart.any() else 1.0
    weight = np.maximum(np.exp(-beta * squared / scale), FAINTEST)
    return coo_array((np.tile(weight, 2), (np.r_[a, b], np.r_[b, a])), (number, number)).tocsc()


def from_marks(weights: csc_array, frames: np.ndarray, phases: np.ndarray) -> np.ndarray:
    """The probability (N, K) of each phase at each frame, given some frames': L_UU P = −L_UM Y.

    Args:
        weights: (N, N), see `similarity`; every frame has to be linked, over others, to a marked one.
        frames: (M,) different frames, which keep their phases.
        phases: (M,) of these, 0 to K − 1.
    """
    number, known = weights.shape[0], np.eye(int(phases.max()) + 1)[phases]
    rest = np.setdiff1d(np.arange(number), frames)
    probability = np.empty((number, known.shape[1]))
    probability[frames] = known
    if len(rest):
        laplacian = _laplacian(weights)[rest].tocsc()
        probability[rest] = splu(laplacian[:, rest].tocsc()).solve(-(laplacian[:, frames] @ known))
    return probability


def from_prior(weights: csc_array, prior: np.ndarray, *, trust: float | np.ndarray) -> np.ndarray:
    """The probability (N, K) of each phase at each frame, given a classifier's, (N, K): (L + γI) P = γq.

    Args:
        weights: (N, N), see `similarity`.
        prior: q, rows of sum 1.
        trust: γ > 0, in the prior against the links, the same everywhere or of each frame (N,): with much of it P is q.
    """
    of_frames = np.broadcast_to(np.asarray(trust, np.float64), len(prior))
    return splu((_laplacian(weights) + diags_array(of_frames)).tocsc()).solve(of_frames[:, None] * prior)


def _laplacian(weights: csc_array) -> csc_array:
    return (diags_array(weights.sum(0)) - weights).tocsc()


def _nearest(features: np.ndarray, neighbours: int, rows: int = 1024) -> np.ndarray:
    """(N·k, 2) pairs of each frame and those nearest to it."""
    squares, found = np.square(features).sum(1), []
    for first in range(0, len(features), rows):
        part = features[first : first + rows]
        distance = squares - 2 * part @ features.T
        distance[np.arange(len(part)), first + np.arange(len(part))] = np.inf
        near = np.argpartition(distance, neighbours - 1, axis=1)[:, :neighbours]
        found.append(np.stack([np.repeat(first + np.arange(len(part)), neighbours), near.ravel()], 1))
    return np.concatenate(found)
