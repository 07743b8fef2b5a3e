"""Claims are judged from stored results of today's protocol alone."""

from __future__ import annotations

import json

import pytest

from replications import cells, judge, pages
from replications.cells import write_json
from replications.claims.collapse import CLAIMS as COLLAPSE
from replications.plan import Arm, Claim, Statement
from replications.queue import cells_of

HARM = Statement("the baseline is harmed", "linear", ("base",), ("harmed",))
ARMS = (Arm("base", {"method": "byol"}), Arm("ours", {"method": "co-byol"}), Arm("harmed", {"method": "vicreg"}))
CLAIM = Claim(
    *("planted", "cifar10", ARMS, (0, 1, 2, 3, 4), 1.0, "A paper", "It is better.", "99."),
    statements=(
        Statement("better", "linear", ("ours",), ("base",)),
        Statement("not worse", "knn", ("ours",), ("base",), margin=0.02),
        Statement("better where it harms", "linear", ("ours",), ("base",), premise=HARM),
        Statement("linear above kNN", "linear - knn", ("ours",), every_seed=True),
    ),
)


def keep(claim, scores) -> None:
    """A result of today's protocol for every cell, as `scores(arm, seed)` says."""
    for cell in cells_of(claim):
        write_json(cell.result_path, {"protocol": cell.protocol, "scores": scores(cell.arm.name, cell.seed)})


@pytest.fixture
def planted(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "RESULTS", tmp_path)

    def scores(arm, seed):
        noise = 0.001 * ((3 * seed + len(arm)) % 5)
        return {"linear": 0.5 + 0.05 * (arm == "ours") + noise, "knn": 0.4 - 0.01 * (arm == "ours") + noise}

    keep(CLAIM, scores)


def test_by_the_rule(planted):
    verdicts = {j.statement.text: j.verdict for j in judge.judge([CLAIM])["planted"]}
    assert verdicts["better"] == "reproduced"
    assert verdicts["not worse"] == "reproduced"  # a point less, by a margin of two
    assert verdicts["better where it harms"].startswith("premise not met (the baseline is harmed: ")
    assert verdicts["linear above kNN"] == "reproduced"


def test_a_result_of_another_protocol_does_not_count(planted):
    stale = next(cell for cell in cells_of(CLAIM) if cell.arm.name == "ours" and cell.seed == 2)
    result = json.loads(stale.result_path.read_text())
    write_json(stale.result_path, result | {"protocol": result["protocol"] | {"recipe": 0}})
    judged = judge.judge([CLAIM])["planted"]
    assert {j.verdict for j in judged} == {"4 of 5 seeds"}


def test_the_statements_of_a_paper_are_tested_together(planted):
    alone = judge.judge([CLAIM])["planted"][0]
    other = Claim(*("other", "cifar10", ARMS, (0, 1), 1.0, "A paper"), statements=CLAIM.statements[:1] * 7)
    together = judge.judge([CLAIM, other])["planted"][0]
    assert alone.p == pytest.approx(3 * alone.found.p)  # three are tested, one is counted
    assert together.p == pytest.approx(10 * alone.found.p)


@pytest.mark.parametrize(("collapsed", "verdict"), [((1, 1, 1), "reproduced"), ((0, 0, 0), "not reproduced")])
def test_a_piece_keeps_from_collapse_if_it_alone_makes_the_difference(tmp_path, monkeypatch, collapsed, verdict):
    monkeypatch.setattr(cells, "RESULTS", tmp_path)
    keep(COLLAPSE[0], lambda arm, seed: {"collapsed": collapsed[seed] * float("-without" in arm)})
    assert {j.verdict for j in judge.judge(COLLAPSE)["collapse"]} == {verdict}


def test_collapse_is_kept_as_it_was_found():
    judged = {j.statement.text: j.verdict for j in judge.judge(COLLAPSE)["collapse"]}
    waiting = {"not run yet", "1 of 3 seeds", "2 of 3 seeds"}  # a raised recipe's runs come in their turn
    assert judged.pop("byol-without-predictor") in {"not reproduced", *waiting}
    assert set(judged.values()) - waiting <= {"reproduced"}


def test_pages_are_the_same_again(tmp_path, monkeypatch):
    (tmp_path / "figures").mkdir()
    for page in ("co_ssl.md", "finetune.md"):
        (tmp_path / page).write_text("before\n<!-- results -->\nold\n<!-- end of results -->\nafter\n")
    monkeypatch.setattr(pages, "DOCS", tmp_path)
    pages.write_pages()
    first = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    pages.write_pages()
    assert first == {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    assert (tmp_path / "co_ssl.md").read_text().startswith("before\n<!-- results -->\nCO-BYOL is more accurate")
    assert "| byol-without-predictor |" in first[tmp_path / "replications.md"].decode()
