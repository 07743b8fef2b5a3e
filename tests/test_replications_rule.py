"""The rule, against closed forms of Student's t and published tables."""

from __future__ import annotations

import math

import numpy as np
import pytest

from replications.rule import holm, interval, power, seeds_needed, verdict


def test_an_interval_is_students_t():
    """Of two degrees of freedom t = 4.302653; the tail of one degree is an arctangent."""
    found = interval([1.0, 2.0, 3.0])
    assert (found.n, found.mean, found.deviation) == (3, 2.0, 1.0)
    assert math.isclose(found.high - 2, 4.302653 / math.sqrt(3), rel_tol=1e-6)
    assert math.isclose(2 - found.low, 4.302653 / math.sqrt(3), rel_tol=1e-6)
    t = 2 * math.sqrt(3)
    assert math.isclose(found.p, 1 - t / math.sqrt(2 + t * t), rel_tol=1e-9)
    assert math.isclose(interval([1.0, 4.0]).p, 1 - 2 / math.pi * math.atan(2.5 / 1.5), rel_tol=1e-9)
    with pytest.raises(ValueError, match="needs two"):
        interval([1.0])


def test_without_spread_a_difference_is_certain_or_none():
    assert interval([0.5, 0.5]).p == 0
    assert interval([0.0, 0.0]).p == 1


def test_power_is_the_integral_over_the_spread():
    """Of three seeds: the variance over its mean is exponential, and given it the mean is normal."""
    critical, shift = 4.302653, 2.5 * math.sqrt(3)
    s = np.sqrt(variance := np.linspace(1e-9, 40, 400_001))
    tail = np.vectorize(lambda z: 0.5 * math.erfc(z / math.sqrt(2)))
    chance = tail(critical * s - shift) + tail(critical * s + shift)
    expected = np.trapezoid(chance * np.exp(-variance), variance)
    assert math.isclose(power(1.0, 2.5, 3), expected, rel_tol=1e-4)


@pytest.mark.parametrize(("effect", "n"), [(1.0, 10), (0.8, 15), (0.5, 34)])
def test_seeds_are_those_of_the_tables(effect, n):
    """Two-sided paired t at 5%, power 80%."""
    assert seeds_needed(0.01, 0.01 * effect, fewest=2) == n


def test_seeds_are_five_at_least():
    assert seeds_needed(0.001, 0.01) == seeds_needed(0.0, 0.01) == 5


def test_holm_is_the_textbooks():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.01, None]) == [0.02, None]  # one that is still to come counts
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_the_four_verdicts():
    gain, loss, small, wide = ([0.02, 0.03, 0.04], [-0.02, -0.03, -0.04], [0.001, 0.002, 0.003], [-0.02, 0.0, 0.03])
    judged = [verdict(i := interval(each), i.p, 0.01) for each in (gain, loss, small, wide)]
    assert judged[:3] == ["reproduced", "not reproduced", "too small to matter"]
    assert judged[3] == f"undecided, would need {seeds_needed(interval(wide).deviation, 0.01, 4)} seeds"
    assert verdict(interval(gain), 0.06, 0.01).startswith("undecided")  # Holm's p decides
    assert verdict(interval(small), 0.03, 0.01, margin=True) == "reproduced"
