"""What is called best is what the scores say."""

from replications import figures
from replications.choose import Question, ranked
from replications.judge import Judged
from replications.plan import Arm, Claim, Statement
from replications.rule import interval

ASKED = Question("Anything", "cifar10", "linear", ("a", "b", "c", "d", "e"))


def seeds(*values, key="linear"):
    return {n: {key: value} for n, value in enumerate(values)}


def test_the_best_and_what_is_not_told_apart_from_it():
    found = {
        "a": seeds(0.50, 0.52, 0.51, 0.50),
        "b": seeds(0.60, 0.62, 0.61, 0.63),
        "c": seeds(0.59, 0.63, 0.60, 0.63),
        "d": seeds(0.90),
        "e": seeds(0.9, 0.9, 0.9, key="knn"),
        "other": seeds(0.99, 0.99, 0.99),
    }
    assert [(arm, best) for arm, _, best in ranked(ASKED, found)] == [("b", True), ("c", True), ("a", False)]
    found["c"] = seeds(0.59, 0.61, 0.60, 0.619)  # always a little less
    assert [best for *_, best in ranked(ASKED, found)] == [True, False, False]
    assert ranked(ASKED, {}) == []


def test_a_claim_is_drawn_once_it_has_a_verdict(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *args, **options: drawn.append(figure))
    statement = Statement("more", "linear", ("b",), ("a",))
    claim = Claim("try", "cifar10", (Arm("a"), Arm("b")), (0, 1, 2), 1, paper="A paper", statements=(statement,))
    found = {"a": seeds(0.5, 0.4, 0.6), "b": seeds(0.6, 0.7, 0.7)}
    half = Judged(statement, interval([0.1, 0.3]), None, "2 of 3 seeds")
    assert not figures.draw_claim(claim, found, [half], tmp_path / "claim.svg")
    whole = Judged(statement, interval([0.1, 0.3, 0.1]), 0.2, "undecided, would need 9 seeds")
    assert figures.draw_claim(claim, found, [whole], tmp_path / "claim.svg")
    (axes,) = drawn[0].axes
    dots = [line.get_xdata() for line in axes.lines if line.get_marker() == "o"]
    assert [sorted(round(x, 6) for x in each) for each in dots] == [[40, 50, 60], [60, 70, 70]]
    assert "+16.7 [" in axes.get_title(loc="left")
    assert "undecided" in axes.get_title(loc="left")


def test_the_front_is_drawn_where_wholes_and_parts_are_scored(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *args, **options: drawn.append(figure))
    statements = tuple(Statement(key, key, ("b",), ("a",)) for key in ("miou", "linear"))
    claim = Claim("try", "parts", (Arm("a"), Arm("b")), (0, 1), 1, paper="A paper", statements=statements)
    found = {arm: {n: {"linear": x, "miou": x / 2} for n in range(2)} for arm, x in (("a", 0.5), ("b", 0.6))}
    judged = [Judged(each, interval([0.1, 0.2]), 0.2, "reproduced") for each in statements]
    assert figures.draw_claim(claim, found, judged, tmp_path / "claim.svg")
    means = [line.get_xydata().tolist() for line in drawn[0].axes[0].lines if line.get_marker() == "o"]
    assert means == [[[50, 25]], [[60, 30]]]
