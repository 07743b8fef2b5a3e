"""The statistics behind every verdict, and that results are kept and read back."""

from __future__ import annotations

import math

import pytest

from glocal.errors import UsageError
from replications import protocol, vicregl
from replications.protocol import Arm, keep, kept, paired


def test_paired_difference_is_students():
    difference = paired({0: 1.0, 1: 3.0, 2: 5.0, 3: 9.0}, {0: 0.0, 1: 1.0, 2: 2.0})
    assert difference.mean == 2.0
    assert math.isclose(difference.high - difference.mean, 4.302653 / math.sqrt(3), rel_tol=1e-6)
    assert math.isclose(difference.mean - difference.low, 4.302653 / math.sqrt(3), rel_tol=1e-6)
    with pytest.raises(ValueError, match="three seeds"):
        paired({0: 1.0}, {0: 2.0})


def test_results_of_two_protocols_do_not_mix(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    keep("claim", Arm("a", {"scale": (0.1, 1)}), 0, dict, {"steps": 2})
    keep("claim", Arm("a", {"scale": (0.1, 1)}), 0, dict, {"steps": 2})
    for arm, common in ((Arm("a", {"scale": (0.2, 1)}), {"steps": 2}), (Arm("a", {"scale": (0.1, 1)}), {"steps": 3})):
        with pytest.raises(UsageError, match="other options of 'a'"):
            keep("claim", arm, 0, dict, common)


def test_a_finished_arm_is_not_run_again(tmp_path, monkeypatch):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    runs = []
    for _ in range(2):
        result = keep("claim", Arm("a"), 7, lambda: runs.append(1) or {"scores": {"x": 0.5}})
        assert result["scores"] == {"x": 0.5}
    assert runs == [1]
    assert kept("claim")["a"][7]["scores"] == {"x": 0.5}


@pytest.mark.parametrize(
    ("gain", "linear", "verdict"),
    [(0.05, 0.0, "reproduced"), (0.05, -0.05, "undecided"), (-0.05, 0.0, "not reproduced"), (0.0, 0.0, "undecided")],
)
def test_verdict_follows_the_rule(tmp_path, monkeypatch, gain, linear, verdict):
    monkeypatch.setattr(protocol, "RESULTS", tmp_path)
    for arm in vicregl.ARMS:
        local = arm.name.startswith("vicregl")
        for seed, noise in enumerate((-0.01, 0.0, 0.01)):
            base = {"knn": 0.3, "linear": 0.5 + linear * local, "camvid": 0.3 + gain * local + noise, "pets": 0.6}
            base["pets"] += gain * local - (noise / 2 if local else 0)
            keep(vicregl.NAME, arm, seed, lambda base=base: {"scores": base})
    assert f"Verdict: **{verdict}**" in vicregl.table()
