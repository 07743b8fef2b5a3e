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
