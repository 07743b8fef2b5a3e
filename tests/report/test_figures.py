from __future__ import annotations

import base64
import io
import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from PIL import Image

from glocal.report.figures import COLOURS, bar_chart, data_uri, line_chart, thin
from glocal.report.labels import duration, score, short_number
from glocal.report.sections import epoch_length


def test_charts_are_small_svgs_in_the_pages_colours():
    x = np.arange(240.0)
    chart = line_chart({"a": ("s0", (x, x**2)), "b": ("random", (x, x + 1))}, title='<"&>', x_label="epoch")
    root = ET.fromstring(chart)
    assert root.attrib["aria-label"] == '<"&>'
    assert "var(--s0)" in chart
    assert "var(--random)" in chart
    assert not any(colour in chart for colour in COLOURS.values())
    assert set(re.findall(r"#[0-9a-f]{6}\b", chart)) == set()
    assert "DejaVu" not in chart
    assert len(chart) < 30_000
    assert chart == line_chart({"a": ("s0", (x, x**2)), "b": ("random", (x, x + 1))}, title='<"&>', x_label="epoch")


def test_bars_are_as_long_as_their_values():
    chart = bar_chart([("run", 0.5, "50%"), ("random", 0.25, "25%")], title="t")
    ET.fromstring(chart)
    lengths = {}
    for path, colour in re.findall(r'<path d="([^"]*)"[^>]*style="fill: var\(--(run|random|grid)\)"', chart):
        xs = [float(v) for v in re.findall(r"[ML] ([\d.]+)", path)]
        lengths[colour] = max(xs) - min(xs)
    assert lengths["run"] == pytest.approx(lengths["grid"] / 2, rel=0.02)
    assert lengths["random"] == pytest.approx(lengths["grid"] / 4, rel=0.02)


def test_thinning_keeps_means_and_drops_what_is_not_finite():
    x, y = thin(range(1000), [*range(999), float("nan")], most=10)
    assert len(x) == 10
    np.testing.assert_allclose(x, y)
    assert x.mean() == pytest.approx(499, abs=0.6)
    x, y = thin([1, 2, 3], [1.0, float("inf"), 3.0])
    assert x.tolist() == [1, 3]


def test_images_survive_as_webp():
    image = Image.fromarray(np.full((8, 8, 3), (200, 30, 60), np.uint8))
    kind, data = data_uri(image).split(",", 1)
    assert kind == "data:image/webp;base64"
    back = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"), dtype=int)
    assert np.abs(back - np.asarray(image)).max() < 12


def test_epoch_length_ignores_a_last_epoch_cut_short():
    assert epoch_length([{"step": 24, "epoch": 1}, {"step": 48, "epoch": 2}, {"step": 60, "epoch": 2}]) == 24
    assert epoch_length([{"step": 10, "epoch": 0}]) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (5e-4, "5e−4"),
        (2.5e-5, "2.5e−5"),
        (0.05, "0.05"),
        (307.4, "307"),
        (2400, "2400"),
        (15_300, "15.3k"),
        (-2e6, "−2M"),
    ],
)
def test_short_numbers(value, text):
    assert short_number(value) == text


def test_words():
    assert [duration(s) for s in (7.6, 200, 7500)] == ["8 s", "3 min 20 s", "2 h 05 min"]
    assert [score("top1", 0.6213), score("rank_pooled", 84.25), score("redundancy", 0.123)] == ["62.1%", "84.2", "0.12"]
