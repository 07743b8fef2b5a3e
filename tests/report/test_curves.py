import pytest
from matplotlib.figure import Figure
from PIL import Image

from glocal.report.curves import robustness_curve


def test_a_robustness_curve_is_drawn_for_each_encoder(tmp_path):
    scores = {
        name: {"clean": top, "relative_drop": 0.3, **{f"severity_{s}": top - 0.05 * s for s in range(1, 6)}}
        for name, top in (("CO-BYOL", 0.7), ("BYOL", 0.69), ("random", 0.4))
    }
    robustness_curve(scores, tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").width == 960
    robustness_curve(scores, tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert text.count("<!-- ") >= 3
    assert all(colour in text for colour in ("#1f5fbf", "#c2571a", "#14804a"))


def test_a_robustness_curve_goes_through_the_scores_in_per_cent(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *args, **options: drawn.append(figure))
    scores = {
        "CO-BYOL": {"clean": 0.7, "relative_drop": 0.25, "severity_5": 0.4, "severity_1": 0.6, "severity_3": 0.5},
        "BYOL": {"clean": 0.5, "relative_drop": 0.5, "severity_1": 0.3, "severity_2": 0.2},
    }
    robustness_curve(scores, tmp_path / "curve.png")
    (axes,) = drawn[0].axes
    points = [line.get_xydata().tolist() for line in axes.lines]
    assert points == [
        [pytest.approx(point) for point in ([0, 70], [1, 60], [3, 50], [5, 40])],
        [pytest.approx(point) for point in ([0, 50], [1, 30], [2, 20])],
    ]
    named = {text.get_text(): text for text in axes.texts}
    assert set(named) == {"CO-BYOL (−25%)", "BYOL (−50%)"}
    for line, text in zip(axes.lines, ("CO-BYOL (−25%)", "BYOL (−50%)"), strict=True):
        assert named[text].get_color() == line.get_color()
        assert named[text].xy == pytest.approx(line.get_xydata()[-1], abs=3)  # beside the end of its line
