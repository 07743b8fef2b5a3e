"""How right a segmentation of time is: frame by frame, and segment by segment."""

from itertools import pairwise

import numpy as np


def segments(phases: np.ndarray) -> list[tuple[int, int, int]]:
    """(phase, first frame, frame after the last) of each stretch of one phase (N,)."""
    edges = [0, *(np.flatnonzero(np.diff(phases)) + 1).tolist(), len(phases)]
    return [(int(phases[a]), a, b) for a, b in pairwise(edges)]


def phase_scores(found: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """Accuracy and macro-F1 of frames (N,), the edit score and F1@10, 25, 50 of segments, all from 0 to 1.

    Edit: 1 − the Levenshtein distance of the sequences of phases, as a share of the longer one. F1@k: a segment is
    right if it overlaps with a true one of its phase, which no other has taken, by k% of their union at least (Lea et
    al. 2017, arXiv:1611.05267). Macro-F1 is over the phases that either has.
    """
    classes = np.union1d(found, truth)
    hits = [2 * ((found == c) & (truth == c)).sum() / ((found == c).sum() + (truth == c).sum()) for c in classes]
    mine, true = segments(found), segments(truth)
    scores = {"accuracy": float((found == truth).mean()), "macro_f1": float(np.mean(hits))}
    scores["edit"] = 1 - _distance([s[0] for s in mine], [s[0] for s in true]) / max(len(mine), len(true))
    return scores | {f"f1@{k}": _overlap_f1(mine, true, k / 100) for k in (10, 25, 50)}


def _distance(a: list[int], b: list[int]) -> int:
    """Insertions, deletions and replacements that make one sequence of the other (Levenshtein 1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, start=1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, start=1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


def _overlap_f1(mine: list[tuple[int, int, int]], true: list[tuple[int, int, int]], least: float) -> float:
    free, right = set(range(len(true))), 0
    for phase, first, end in mine:
        shares = [
            (min(end, b) - max(first, a)) / (max(end, b) - min(first, a)) if other == phase else -1.0
            for other, a, b in true
        ]
        best = int(np.argmax(shares))
        if shares[best] >= least and best in free:
            free.remove(best)
            right += 1
    return 2 * right / (len(mine) + len(true))
