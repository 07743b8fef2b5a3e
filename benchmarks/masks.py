"""What a mask on the encoder's weights costs: training steps with it over those without."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

from benchmarks.cases import CASES, R18, Case
from benchmarks.measure import Size, interleaved, ratio, summary
from benchmarks.pretrain import resident
from glocal.adaptation.masks import add_pruning, add_scores

ARMS = {"plain": lambda encoder: None, "scores": add_scores, "pruned": partial(add_pruning, share=0.2)}
FULL = (R18, Case("vicreg", "mobilenet_v1_050", 96, 64, 3))


def measure(size: Size) -> dict[str, Any]:
    """Backbone, heads and optimiser on random input, arms in turn in one process."""
    full = size == "full"
    return {"cases": [compared(case, 5 if full else 1) for case in (FULL if full else CASES[size][:1])]}


def compared(case: Case, rounds: int) -> dict[str, Any]:
    """Seconds a step of each arm, and how many times as long as the plain one's."""
    steps = {name: resident(case, whole=True, change=change) for name, change in ARMS.items()}
    times = interleaved({name: partial(next, each) for name, each in steps.items()}, rounds=rounds)
    return {
        **asdict(case),
        "seconds": {name: summary(found) for name, found in times.items()},
        "times_plain": {name: ratio(times[name], times["plain"]) for name in times if name != "plain"},
    }
