import re

import pytest
from PIL import Image

from replications.figures import robustness_curve


def test_a_robustness_curve_is_drawn_for_each_encoder(tmp_path):
    found = {"CO-BYOL": 0.7, "BYOL": 0.6, "random": 0.4}
    scores = {
        name: {"clean": top, "relative_drop": 0.3, "severity_1": top - 0.05, "severity_3": top - 0.1}
        for name, top in found.items()
    }
    robustness_curve(scores, tmp_path / "curve.png")
    assert Image.open(tmp_path / "curve.png").width == 960
    robustness_curve(scores, tmp_path / "curve.svg")
    text = (tmp_path / "curve.svg").read_text()
    assert text.count("<!-- ") >= 3
    lines = []
    for colour in ("#1f5fbf", "#c2571a", "#14804a"):
        (path,) = re.findall(rf'<path d="([^"]*)" clip-path[^>]*style="fill: none; stroke: {colour}', text)
        lines.append([tuple(map(float, point)) for point in re.findall(r"[ML] ([\d.]+) ([\d.]+)", path)])
    # where its accuracy says, in a picture whose y runs down: five points lower a step, ten between the encoders
    (x0, y0), (x1, y1), (x3, y3) = lines[0]
    assert x3 - x0 == pytest.approx(3 * (x1 - x0), rel=1e-3)
    assert y1 - y0 == pytest.approx(y3 - y1, rel=1e-3)
    assert y1 > y0
    for line, below in zip(lines[1:], (2, 6), strict=True):
        assert [y - y0 for _, y in line] == pytest.approx([(below + k) * (y1 - y0) for k in range(3)], rel=1e-3)


def test_a_robustness_curve_goes_through_the_scores_in_per_cent(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, *args, **options: drawn.append(figure))
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
