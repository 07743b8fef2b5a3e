from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from glocal.report.figures import (
    BOTTOM,
    LEFT,
    RIGHT,
    TOP,
    data_uri,
    duration,
    epoch_length,
    line_chart,
    short_number,
    spectrum_charts,
    thin,
)
from glocal.report.scores import score


def test_lines_stand_where_their_numbers_say():
    x = np.arange(4.0)
    chart = line_chart("t", {"a": ("s0", (x, 10 + 5 * x)), "b": ("start", (x[1:], 20 + 0 * x[1:]))}, x_label="epoch")
    assert chart.lines["a"] == (
        "s0",
        [[LEFT + k * (RIGHT - LEFT) / 3, BOTTOM - k * (BOTTOM - TOP) / 3] for k in range(4)],
    )
    level = BOTTOM - (BOTTOM - TOP) * 10 / 15
    assert chart.lines["b"][1] == [[x, level] for x, _ in chart.lines["a"][1][1:]]
    assert [text for _, text in chart.x_ticks] == ["0", "1", "2", "3"]
    assert (level, "20") in chart.y_ticks
    assert (BOTTOM, "10") in chart.y_ticks


def test_axes_start_at_zero_where_they_should():
    series = (np.array([2.0, 4.0]), np.array([30.0, 40.0]))
    (_, (first, last)), *_ = line_chart("t", {"a": ("s0", series)}, x_label="epoch", zero=True).lines.values()
    assert first == [(LEFT + RIGHT) / 2, BOTTOM - 0.75 * (BOTTOM - TOP)]
    assert last == [RIGHT, TOP]
    negative = line_chart("t", {"a": ("s0", (series[0], -series[1]))}, x_label="epoch", zero=True)
    assert negative.y_ticks[-1] == (TOP, "0") or negative.lines["a"][1][1][1] == BOTTOM


def test_a_logarithmic_axis_gives_decades_equal_room():
    values = np.array([1, 0.1, 1e-4])
    chart = line_chart("t", {"a": ("s0", (np.arange(3.0), values))}, x_label="direction", log=True)
    heights = [y for _, y in chart.lines["a"][1]]
    assert heights == [TOP, TOP + (BOTTOM - TOP) / 4, BOTTOM]
    assert {text: y for y, text in chart.y_ticks} == {"1": heights[0], "0.1": heights[1], "1e−4": heights[2]} | {
        "0.01": TOP + (BOTTOM - TOP) / 2,
        "0.001": TOP + 3 * (BOTTOM - TOP) / 4,
    }


@pytest.mark.parametrize("value", [0.0, 5.0, -5.0])
@pytest.mark.parametrize("zero", [False, True])
def test_a_single_point_is_drawn(value, zero):
    (_, ((x, y),)), *_ = line_chart("t", {"a": ("s0", ([0.0], [value]))}, x_label="step", zero=zero).lines.values()
    assert LEFT <= x <= RIGHT
    assert TOP <= y <= BOTTOM


def test_near_ticks_are_told_apart():
    chart = line_chart("t", {"a": ("s0", (np.arange(2.0), np.array([24.121, 24.158])))}, x_label="step")
    texts = [text for _, text in chart.y_ticks]
    assert len(texts) > 2
    assert len(set(texts)) == len(texts)


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
    assert [score(0.6213, share=True), score(84.25, share=False), score(0.123, share=False)] == [
        "62.1%",
        "84.2",
        "0.12",
    ]


def test_a_spectrum_of_thousands_is_thinned_and_one_of_nothing_left_out():
    falling = 0.999 ** np.arange(1000.0)
    (chart,) = spectrum_charts({"pooled": {"encoder": falling, "start": np.zeros(1)}}, {"encoder": "A", "start": "B"})
    assert list(chart.lines) == ["A"]
    points = chart.lines["A"][1]
    assert len(points) <= 240
    assert points[-1] == [RIGHT, BOTTOM]
    assert spectrum_charts({"pooled": {"encoder": np.zeros(1)}}, {"encoder": "A"}) == []
