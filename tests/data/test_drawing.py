from __future__ import annotations

import numpy as np
import pytest

from glocal.data import drawing
from glocal.data.drawing import Canvas, stamp

SHAPES = [drawing.ellipse, drawing.disc, drawing.capsule, drawing.triangle, drawing.flower]


def blank(size=40):
    return Canvas(
        np.zeros((size, size, 3), np.float32), np.zeros((size, size), np.uint8), np.zeros((size, size, 2), np.float32)
    )


def frame(x, y, scale, turn=0.0):
    cos, sin = scale * np.cos(turn), scale * np.sin(turn)
    return np.array([[cos, -sin, x], [sin, cos, y]])


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_lie_within_reach_around_their_centre(shape):
    u, v = np.meshgrid(np.linspace(-2, 2, 201), np.linspace(-2, 2, 201))
    inside = shape(u, v) < 0
    assert shape(np.zeros(1), np.zeros(1))[0] < -0.3
    assert np.hypot(u, v)[inside].max() <= 1.3
    assert 1.5 < inside.mean() * 16 < 3.6  # area, that of the unit disc being 3.14


@pytest.mark.parametrize("shape", SHAPES)
def test_edges_are_about_a_pixel_wide(shape):
    """Near its edge a shape's function grows like the distance from it."""
    u, v = np.meshgrid(np.linspace(-1.5, 1.5, 601), np.linspace(-1.5, 1.5, 601))
    value = shape(u, v)
    slope = np.hypot(*np.gradient(value, 3 / 600))
    near = np.abs(value) < 0.02
    assert 0.7 < np.median(slope[near]) < 1.5


def test_flower_is_a_flower():
    angle = np.linspace(0, 2 * np.pi, 360, endpoint=False)
    edge = drawing.flower(np.cos(angle), np.sin(angle))
    assert np.allclose(edge, 0.85 * (1 - (0.88 + 0.2 * np.cos(5 * angle))), atol=1e-4)


def test_a_stamp_is_where_its_frame_says():
    canvas = blank()
    stamp(canvas, frame(25, 12, 6), drawing.disc, drawing.plain, np.ones((2, 3)), number=3)
    y, x = np.mgrid[:40, :40] + 0.5
    assert np.array_equal(canvas.mask == 3, np.hypot(x - 25, y - 12) <= 6)
    covered = canvas.color.max(-1) > 0
    assert not covered[np.hypot(x - 25, y - 12) > 7].any()
    on = canvas.mask == 3
    assert np.allclose(canvas.coordinates[on], np.stack((x - 25, y - 12), -1)[on] / 6, atol=1e-5)


def test_what_is_drawn_later_lies_on_top():
    canvas = blank()
    stamp(canvas, frame(20, 20, 10), drawing.disc, drawing.plain, np.ones((2, 3)), number=1)
    stamp(canvas, frame(20, 20, 4), drawing.disc, drawing.plain, np.zeros((2, 3)), number=0)
    assert canvas.mask[20, 20] == 0
    assert (canvas.coordinates[20, 20] == 0).all()
    assert canvas.mask[20, 12] == 1
    assert canvas.color[20, 20].max() < 0.01


@pytest.mark.parametrize("place", [(-30, 20), (20, 80), (1, 1), (39, 0)])
def test_stamps_may_leave_the_canvas(place):
    canvas = blank()
    stamp(canvas, frame(*place, 8, 0.3), drawing.ellipse, drawing.stripes, np.ones((2, 3)), number=1)
    y, x = np.mgrid[:40, :40] + 0.5
    assert (np.hypot(x - place[0], y - place[1])[canvas.mask == 1] < 9.5).all()


def test_grounds_differ_and_get_busier():
    draws = np.random.default_rng(0).random((2, 5, 9))
    first, second = (drawing.ground(32, d, clutter=0.5) for d in draws)
    assert first.shape == (32, 32, 3)
    assert np.abs(first - second).mean() > 0.02
    flat = drawing.ground(32, draws[0], clutter=0.0)
    assert np.ptp(flat, axis=(0, 1)).max() < 1e-6
    assert np.allclose(
        drawing.ground(32, draws[0], clutter=1.0) - flat, 2 * (first - flat), atol=1e-5
    )  # clutter is an amplitude
