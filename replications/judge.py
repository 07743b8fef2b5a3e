"""Claims against their stored results: what differs by how much, and the verdict of the rule."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from replications.cells import Cell, stored
from replications.plan import Claim, Statement
from replications.rule import LEVEL, Interval, holm, interval, verdict
from replications.worlds import WORLDS

Results = Mapping[str, Mapping[int, Mapping[str, float]]]
"""Arm -> seed -> score -> number."""


@dataclass(frozen=True)
class Judged:
    """A statement with its difference, where two seeds of all its arms are there, and its verdict."""

    statement: Statement
    found: Interval | None  # with the margin, where there is one
    p: float | None
    verdict: str

    @property
    def shown(self) -> str:
        """The difference as it was found, and what it is to exceed where that is not 0; "" where there is none yet."""
        if self.found is None:
            return ""
        margin = self.statement.margin
        plain = {name: getattr(self.found, name) - margin for name in ("mean", "low", "high")}
        return str(replace(self.found, **plain)) + (f", asked above {-margin:+g}" if margin else "")


def results(claim: Claim) -> dict[str, dict[int, dict[str, float]]]:
    """Scores of all cells of a claim that have a result of today's protocol."""
    world = WORLDS[claim.world]
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for arm in claim.arms:
        kept = {seed: stored(Cell(world, arm, seed)) for seed in claim.seeds}
        found[arm.name] = {seed: result for seed, result in kept.items() if result is not None}
    return {arm: {seed: result["scores"] for seed, result in seeds.items()} for arm, seeds in found.items()}


def differences(statement: Statement, found: Results) -> list[float]:
    """What is claimed to be positive, for each seed that all arms have."""
    seeds = set.intersection(*(set(found[arm]) for arm in statement.more + statement.less))

    def total(arms: Sequence[str], seed: int) -> float:
        return sum(value(found[arm][seed], statement.score) for arm in arms)

    return [total(statement.more, seed) - total(statement.less, seed) + statement.margin for seed in sorted(seeds)]


def value(scores: Mapping[str, float], key: str) -> float:
    """A score, or "a - b", the difference of two; "teacher a" is a's own, where there is no teacher."""
    a, _, b = key.partition(" - ")
    one = lambda key: scores[key] if key in scores else scores[key.removeprefix("teacher ")]
    return one(a) - one(b) if b else one(a)


def judge(claims: Sequence[Claim]) -> dict[str, list[Judged]]:
    """Claim name -> its statements, judged; the statements of a paper are tested together.

    Args:
        claims: all of the plan, since those of a paper belong together.
    """
    found = {claim.name: results(claim) for claim in claims}
    of_paper: dict[str, list[tuple[Claim, Statement]]] = {}
    for claim in claims:
        of_paper.setdefault(claim.paper, []).extend((claim, statement) for statement in claim.statements)
    judged: dict[str, list[Judged]] = {claim.name: [] for claim in claims}
    for pairs in of_paper.values():
        values = [differences(statement, found[claim.name]) for claim, statement in pairs]
        intervals = [interval(each) if len(each) > 1 else None for each in values]
        tested = [None if s.every_seed or not i else i.p for (_, s), i in zip(pairs, intervals, strict=True)]
        counted = [k for k, (_, s) in enumerate(pairs) if not s.every_seed]
        adjusted = dict(zip(counted, holm([tested[k] for k in counted]), strict=True))
        for k, (claim, statement) in enumerate(pairs):
            said = say(claim, statement, values[k], intervals[k], adjusted.get(k), found[claim.name])
            judged[claim.name].append(Judged(statement, intervals[k], adjusted.get(k), said))
    return judged


def say(
    claim: Claim, statement: Statement, each: list[float], found: Interval | None, p: float | None, scores: Results
) -> str:
    """The verdict on a statement; before all seeds are there, how many are."""
    if len(each) < len(claim.seeds):
        return f"{len(each)} of {len(claim.seeds)} seeds" if each else "not run yet"
    if (premise := statement.premise) is not None:
        of_premise = differences(premise, scores)
        if len(of_premise) < len(claim.seeds):
            return f"{len(of_premise)} of {len(claim.seeds)} seeds of the premise"
        shown = interval(of_premise)
        if not (shown.mean > 0 and shown.p < LEVEL):
            return f"premise not met ({premise.text}: {shown})"
    if statement.every_seed:
        held = {difference > 0 for difference in each}
        return "undecided" if len(held) > 1 else "reproduced" if held == {True} else "not reproduced"
    assert found is not None
    assert p is not None
    return verdict(found, p, statement.least, margin=statement.margin)


def spread(values: Sequence[float]) -> str:
    """'.412 ± .010 (5)': mean, standard deviation and number of seeds."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation} ({len(values)})"
