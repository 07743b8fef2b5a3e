"""Randomness as a pure function of its keys: (seed, stream, keys) gives the same numbers anywhere, in any order.

A counter-based generator (splitmix64 finaliser over a chained hash), so that sample i of epoch e gets the same views
whatever the number of workers, processes or restarts. Nothing here keeps state or touches a global generator.
"""

import zlib

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: np.ndarray) -> np.ndarray:
    """The splitmix64 finaliser (Steele et al. 2014): a bijection of 64-bit words with full avalanche."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def _hash(seed: int, stream: str, keys: tuple) -> np.ndarray:
    with np.errstate(over="ignore"):
        state = _mix(np.asarray(seed % 2**64, dtype=np.uint64) + _GOLDEN)
        for key in (zlib.crc32(stream.encode()), *keys):
            word = np.asarray(key).astype(np.int64).astype(np.uint64)
            state = _mix((state ^ _mix(word + _GOLDEN)) + _GOLDEN)
    return np.asarray(state)


def uniform(seed: int, stream: str, *keys: int | np.ndarray, n: int) -> np.ndarray:
    """`n` uniform numbers in [0, 1) for each element of the broadcast integer keys, float64, shape (*broadcast, n).

    Args:
        seed: the run's seed.
        stream: what the numbers are for ("crop", "jitter", ...); different streams are independent.
        keys: integers or integer arrays, e.g. epoch, sample ids (B,), view.
    """
    state = _hash(seed, stream, keys)[..., None]
    with np.errstate(over="ignore"):
        words = _mix(state + _GOLDEN * np.arange(1, n + 1, dtype=np.uint64))
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def derive(seed: int, stream: str, *keys: int) -> int:
    """A 63-bit seed for another generator (`torch.manual_seed`, `numpy.random.default_rng`), from integer keys."""
    return int(_hash(seed, stream, keys)) >> 1


def permutation(n: int, seed: int, stream: str, *keys: int) -> np.ndarray:
    """A permutation of range(n), int64."""
    return np.random.default_rng(derive(seed, stream, *keys)).permutation(n)
