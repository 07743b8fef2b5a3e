"""The plan holds together: its names, its options, its hours."""

from __future__ import annotations

import pytest

from glocal.backbones import build_backbone
from glocal.backbones.receptive_field import receptive_field
from glocal.methods import method_class, method_names, resolve_options
from replications.claims import CLAIMS, HOURS
from replications.claims.learns import BEGIN, METHODS
from replications.claims.pilots import PILOTS
from replications.plan import Claim, Statement
from replications.queue import cells_of
from replications.worlds import WORLDS

EVERYTHING = (*PILOTS, *CLAIMS)


def test_an_arm_is_the_same_wherever_its_name_occurs():
    cells: dict[str, object] = {}
    for claim in EVERYTHING:
        for cell in cells_of(claim):
            assert cells.setdefault(str(cell), cell) == cell


def test_it_takes_no_more_hours_than_it_may():
    planned: dict[str, float] = {}
    for claim in CLAIMS:
        for cell in cells_of(claim):
            if cell.takes_time and claim.name != "collapse":  # whose runs are kept
                planned.setdefault(str(cell), claim.minutes)
    assert sum(planned.values()) <= 60 * HOURS
    assert max(planned.values()) <= 20


def test_pilots_take_three_and_a_half_hours_at_most():
    planned = {str(cell): claim.minutes for claim in PILOTS for cell in cells_of(claim) if "method" in cell.options}
    assert sum(planned.values()) <= 60 * 3.5


def test_pilots_have_seeds_of_their_own():
    claims = {seed for claim in CLAIMS for seed in claim.seeds}
    assert not claims & {seed for claim in PILOTS for seed in claim.seeds}


@pytest.mark.parametrize("claim", EVERYTHING, ids=lambda claim: claim.name)
def test_every_cell_has_a_protocol(claim: Claim):
    """Versions of its recipe, its network and its probes; options that its method has."""
    for cell in {arm.name: next(c for c in cells_of(claim) if c.arm == arm) for arm in claim.arms}.values():
        assert cell.protocol["recipe"]
        if "method" in cell.options and not cell.arm.run:
            cls = method_class(cell.options["method"])
            pretrain = {"method", "backbone", "batch_size", "max_steps", "optimizer", "lr", "weight_decay", "patches"}
            pretrain |= {"native", "tokens", "epochs", "cache", "warmup_epochs", "checkpoint_steps"}
            own = {key: value for key, value in cell.options.items() if key not in pretrain}
            resolve_options(cls, "small", cell.options["batch_size"], own)


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.name)
def test_statements_speak_of_arms_and_scores_that_there_are(claim: Claim):
    arms = {arm.name: arm for arm in claim.arms}
    usual = set(WORLDS[claim.world].usual)

    def check(statement: Statement) -> None:
        for name in statement.more + statement.less:
            arm = arms[name]
            asked = {key.removeprefix("teacher ") for key in statement.score.split(" - ")}
            assert arm.measure or arm.run or asked <= usual | set(arm.scores)

    for statement in claim.statements:
        check(statement)
        if statement.premise:
            check(statement.premise)


def test_every_method_has_to_learn():
    others = {"dcgan", "flow", "irmae"}  # make images: their claims are others
    learning = [name for name in method_names("images") if not method_class(name).needs]  # as a teacher
    assert sorted(METHODS) == [name for name in learning if name not in others]


@pytest.mark.parametrize("name", METHODS)
def test_it_is_compared_with_the_weights_it_began_with(name):
    """The same network, pooled in the same way, without a finer stride by dilation."""
    claim = next(claim for claim in CLAIMS if claim.name == f"learns-{name}")
    begin, arm = (next(c for c in cells_of(claim) if c.arm.name == n) for n in (BEGIN.get(name, "random"), name))
    assert begin.options["backbone"] == arm.options["backbone"]
    pool = method_class(name).pool
    assert begin.options.get("pool", "native") == pool or "rn8" in begin.options["backbone"]  # whose mean is native


@pytest.mark.parametrize(
    ("name", "field", "cells"),
    [("rn8_w16_s8", 79, 4), ("rn8_w24_s16", 95, 2), ("rn8_w16_s8_rf19", 19, 4)],
)
def test_networks_see_what_their_names_say(name, field, cells):
    backbone = build_backbone(f"replications.networks:{name}", image_size=32)
    assert receptive_field(backbone).size == field
    assert 32 / backbone.stride == cells
