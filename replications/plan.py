"""The plan's words: what a claim is, and what is compared; the claims and the pilots: replications/claims."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RECIPES_FROZEN = True
"""Claims run by default once no recipe is about to change."""


@dataclass(frozen=True)
class Arm:
    """One thing that is compared, the same wherever its name occurs in a world.

    Attributes:
        name: of the arm.
        options: of `glocal.pretrain`, over the world's; without a method it is the encoder as a run begins with it.
        scores: keys of the world's scores beside the usual ones.
        sets: what to pretrain on in place of the world's.
        measure: "module:function" of further scores, function(run) -> {key: number}.
        run: "module:function" in place of `glocal.pretrain`, function(data, folder, seed, options) -> {key: number}.
        teacher: keys of scores that its teacher, which some papers evaluate, is to have as well, as "teacher KEY".
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    scores: tuple[str, ...] = ()
    sets: tuple[str, ...] = ()
    measure: str = ""
    run: str = ""
    teacher: tuple[str, ...] = ()


@dataclass(frozen=True)
class Statement:
    """That some arms have more of a score than others: the sum over `more` less the sum over `less` is positive.

    Attributes:
        text: what is claimed, in words.
        score: key, or "a - b" for the difference of two.
        more, less: names of arms.
        least: the smallest difference worth having.
        margin: where it is "not less by more than this", else 0.
        premise: what has to hold, else the statement is not judged.
        every_seed: judged by counting: it holds for all seeds, or for none.
    """

    text: str
    score: str
    more: tuple[str, ...]
    less: tuple[str, ...] = ()
    least: float = 0.01
    margin: float = 0.0
    premise: Statement | None = None
    every_seed: bool = False


@dataclass(frozen=True)
class Claim:
    """Arms and seeds that are run together, and what they are to show.

    Attributes:
        name: of the claim.
        world: where it is tried.
        arms: that are compared.
        seeds: of every arm.
        minutes: planned processor minutes of a cell.
        paper: whose claim; all statements of a paper are tested together.
        text: the claim.
        published: numbers and scale.
        statements: that are judged.
        missing: what of the paper's claim the plan leaves out, and what that would need.
    """

    name: str
    world: str
    arms: tuple[Arm, ...]
    seeds: tuple[int, ...]
    minutes: float
    paper: str = ""
    text: str = ""
    published: str = ""
    statements: tuple[Statement, ...] = ()
    missing: str = ""
