"""The rule by which claims are judged, fixed before any run; pure functions.

Differences are paired by seed. Seeds: as many as give a paired t-test at 95% a power of 80% to see the smallest
difference worth having, by the spread of the pilots, from 5 to 20. All claims of a paper are tested together (Holm).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from scipy.stats import nct, t as student

LEVEL, POWER = 0.05, 0.8
FEWEST, MOST = 5, 20


@dataclass(frozen=True)
class Interval:
    """Of a mean difference over n seeds: its deviation over seeds, its 95% interval, two-sided p of its being 0."""

    n: int
    mean: float
    deviation: float
    low: float
    high: float
    p: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def interval(differences: Sequence[float]) -> Interval:
    """Student's t over paired differences.

    Raises:
        ValueError: with fewer than two.
    """
    n = len(differences)
    if n < 2:
        raise ValueError(f"{n} paired differences: an interval needs two")
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    error = deviation / math.sqrt(n)
    half = float(student.ppf(1 - LEVEL / 2, n - 1)) * error
    p = 2 * float(student.sf(abs(mean) / error, n - 1)) if error else float(mean == 0)
    return Interval(n, mean, deviation, mean - half, mean + half, p)


def power(deviation: float, difference: float, n: int) -> float:
    """Of the two-sided paired t-test over n seeds to find a true difference, given its deviation over seeds."""
    critical, shift = student.ppf(1 - LEVEL / 2, n - 1), difference / deviation * math.sqrt(n)
    return float(nct.sf(critical, n - 1, shift) + nct.cdf(-critical, n - 1, shift))


def seeds_needed(deviation: float, difference: float, fewest: int = FEWEST) -> int:
    """The least number of seeds with enough power; above `MOST` it is what a verdict would take."""
    n = max(2, fewest)
    while deviation and power(deviation, difference, n) < POWER:
        n += 1 if n < 100 else n // 10
    return n


def holm(ps: Sequence[float | None]) -> list[float | None]:
    """p-values adjusted for their number (Holm 1979); None, a test that is still to come, counts as one of them."""
    order = sorted((p, i) for i, p in enumerate(ps) if p is not None)
    adjusted: list[float | None] = [None] * len(ps)
    most = 0.0
    for rank, (p, i) in enumerate(order):
        most = adjusted[i] = max(most, min(1.0, p * (len(ps) - rank)))
    return adjusted


def verdict(found: Interval, p: float, least: float, *, margin: float = 0.0) -> str:
    """On the claim that a difference is positive.

    Args:
        found: the difference; where the claim is "not less by more than a margin", with the margin added.
        p: Holm's, over the claims of the paper.
        least: the smallest difference worth having.
        margin: that was added: then no difference is too small to matter.

    Returns:
        "too small to matter", "reproduced", "not reproduced" or "undecided, would need N seeds".
    """
    if not margin and -least < found.low and found.high < least:
        return "too small to matter"
    if p < LEVEL:
        return "reproduced" if found.mean > 0 else "not reproduced"
    return f"undecided, would need {seeds_needed(found.deviation, max(least, margin), found.n + 1)} seeds"
