"""Each corruption against its definition, on images and constants for which the answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from glocal.evaluation import corruptions as file
from glocal.evaluation.corruptions import Draws

HEIGHT, WIDTH = 40, 64


def draws(count=1, seed=0):
    return Draws(seed, "test", range(count))


def noise(*shape):
    return torch.from_numpy(np.random.default_rng(0).random(shape)).float()


def places(count=1):
    """Images (B, 2, H, W) whose values are their columns and rows."""
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return torch.stack([columns, rows]).float().expand(count, -1, -1, -1)


def test_noises_have_the_moments_of_their_distributions():
    x = torch.full((2, 3, 100, 100), 0.4)
    gaussian = file._gaussian_noise(x, 0.2, draws(2)) - x
    assert (gaussian.mean().item(), gaussian.std().item()) == pytest.approx((0, 0.2), abs=0.004)
    shot = file._shot_noise(x, 50, draws(2))
    assert (shot.mean().item(), shot.var().item()) == pytest.approx((0.4, 0.4 / 50), rel=0.03)
    torch.testing.assert_close(shot * 50, (shot * 50).round(), atol=1e-4, rtol=0)
    impulse = file._impulse_noise(x, 0.3, draws(2))
    for value, share in ((0.0, 0.15), (1.0, 0.15), (x[0, 0, 0, 0], 0.7)):
        assert (impulse == value).float().mean() == pytest.approx(share, abs=0.01)


@pytest.mark.parametrize(("deviation", "reach"), [(0.6, 4), (2.0, 4), (3.0, 3), (15.0, 4)])
def test_blurs_are_scipys(deviation, reach):
    x = noise(2, 3, 12, 20)
    for mirror, mode in ((False, "nearest"), (True, "reflect")):
        expected = ndimage.gaussian_filter(x.numpy(), (0, 0, deviation, deviation), mode=mode, truncate=reach)
        ours = file._blur(x, deviation, reach=reach, mirror=mirror)
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    torch.testing.assert_close(file._blur(x, 0.0), x)


@pytest.mark.parametrize(("radius", "softness", "soft"), [(1.5, 0.1, 1), (3, 0.5, 1), (8, 0.5, 1), (9, 0.7, 2)])
def test_a_point_out_of_focus_is_a_soft_disk(radius, softness, soft):
    x = noise(1, 3, HEIGHT, WIDTH)
    half = math.ceil(radius) + 2
    y, x_ = np.mgrid[-half : half + 1, -half : half + 1]
    disk = (x_**2 + y**2 <= radius**2).astype(float)
    near = np.exp(-(np.arange(-soft, soft + 1) ** 2) / (2 * softness**2))
    kernel = ndimage.convolve(disk / disk.sum(), np.outer(near, near) / near.sum() ** 2, mode="constant")
    expected = np.stack([ndimage.convolve(channel, kernel, mode="mirror") for channel in x[0].numpy()])
    np.testing.assert_allclose(file._defocus_blur(x, (radius, softness), draws())[0].numpy(), expected, atol=1e-5)


def test_glass_blurs_before_and_after():
    x = noise(1, 3, 9, 9)
    torch.testing.assert_close(file._glass_blur(x, (0.7, 1, 0), draws()), file._blur(file._blur(x, 0.7), 0.7))


def test_white_stays_white():
    white = torch.full((1, 32, 32, 3), 255, dtype=torch.uint8)
    assert torch.equal(file.corrupt(white, "pixelate", 3), white)


@pytest.mark.parametrize(("distance", "times"), [(1, 2), (2, 1)])
def test_glass_swaps_pixels_as_a_loop_over_them_would(distance, times):
    x = noise(2, 3, 11, 14)
    y = file._glass_blur(x, (0.0, distance, times), draws(2)).numpy()
    numbers, span = draws(2), 2 * distance + 1
    expected = x.numpy().copy()
    for _ in range(times):
        down, right = np.floor(numbers.uniform(2, 11, 14, like=x).numpy() * span).astype(int).swapaxes(0, 1) - distance
        for top in range(distance, distance + span):
            for left in range(distance, distance + span):
                for i in range(2):
                    for r in range(top, 11 - distance, span):
                        for c in range(left, 14 - distance, span):
                            there = r + down[i, r, c], c + right[i, r, c]
                            mine = expected[i, :, r, c].copy()
                            expected[i, :, r, c] = expected[i, :, *there]
                            expected[i, :, *there] = mine
    np.testing.assert_array_equal(y, expected)
    assert (y[:, :, 1:-1, 1:-1] != x.numpy()[:, :, 1:-1, 1:-1]).mean() > 0.6


def test_motion_is_within_45_degrees_of_the_horizontal():
    x = torch.zeros(200, 1, 41, 41)
    x[:, :, 20, 20] = 1
    y = file._motion_blur(x, (10, 8), draws(200))[:, 0]
    rows, columns = torch.meshgrid(torch.arange(41) - 20, torch.arange(41) - 20, indexing="ij")
    middle = torch.stack([(y * columns).sum((1, 2)), (y * rows).sum((1, 2))], 1)
    angle = torch.atan2(-middle[:, 1], -middle[:, 0])
    assert angle.abs().max() < math.pi / 4 + 0.05
    assert angle.abs().max() > math.pi / 4 - 0.1
    assert angle.mean().abs() < 0.1
    torch.testing.assert_close(y.sum((1, 2)), torch.ones(200))


@pytest.mark.parametrize("factor", [1.0, 1.25, 2.0])
def test_an_enlargement_keeps_the_centre(factor):
    x = places()
    middle = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2]).view(1, 2, 1, 1)
    torch.testing.assert_close(file._zoom(x, factor), middle + (x - middle) / factor, atol=1e-3, rtol=1e-4)


def test_zoom_blur_is_the_mean_of_the_image_and_its_enlargements():
    x = places()
    middle = torch.tensor([(WIDTH - 1) / 2, (HEIGHT - 1) / 2]).view(1, 2, 1, 1)
    share = (1 + 1 + 1 / 1.1 + 1 / 1.2 + 1 / 1.3) / 5
    torch.testing.assert_close(
        file._zoom_blur(x, (0.3, 0.1), draws()), middle + (x - middle) * share, atol=1e-3, rtol=0
    )


def test_snow_bleaches_the_image_and_falls_from_both_sides():
    x = noise(2, 3, 32, 32)
    none = (0.1, 0.3, 2, 10.0, 8, 3, 0.7)  # no value is kept
    grey = 0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2]
    pale = 0.7 * x + 0.3 * torch.maximum(x, 1.5 * grey[:, None] + 0.5)
    torch.testing.assert_close(file._snow(x, none, draws(2)), pale)
    black = torch.zeros(40, 3, 32, 32)
    flakes = file._snow(black, (0.1, 0.3, 1, 0.5, 8, 3, 1.0), draws(40))
    torch.testing.assert_close(flakes, flakes.flip(2, 3))
    assert torch.equal(flakes[:, 0], flakes[:, 2])
    # E[n; n ≥ .5] of normal n, cut off at 1, from both sides
    n = torch.from_numpy(0.1 + 0.3 * np.random.default_rng(1).normal(size=10**6))
    assert flakes.mean() == pytest.approx(2 * float(torch.where(n < 0.5, 0.0, n.clamp(0, 1)).mean()), rel=0.05)
    across, down = flakes.diff(dim=3).abs().mean(), flakes.diff(dim=2).abs().mean()
    assert down < across  # it falls steeply


def test_a_frosted_pane_lies_over_the_image():
    x = noise(300, 3, 16, 16)
    y = file._frost(x, (0.6, 0.5), draws(300))
    pane = (y - 0.6 * x) / 0.5
    assert pane.min() >= -1e-4
    assert pane.max() <= 1 + 1e-4
    level = pane.mean((2, 3))
    assert level[:, 1].min() > 0.33
    assert level[:, 1].max() < 0.84
    assert (level[:, 1].mean().item(), level[:, 1].std().item()) == pytest.approx((0.585, 0.47 / 12**0.5), abs=0.02)
    assert (level[:, 0] - level[:, 1]).mean() == pytest.approx(-0.06, abs=0.005)
    assert (level[:, 2] - level[:, 1]).mean() == pytest.approx(0.05, abs=0.005)
    assert pane.std((2, 3)).mean() == pytest.approx(0.12, abs=0.005)


def test_fog_is_a_fractal_under_the_brightest_value():
    x = noise(3, 3, 32, 32) * 0.7
    fractal = file._plasma(x, 1.7, draws(3))
    most = x.amax((1, 2, 3)).view(3, 1, 1, 1)
    expected = (x + 1.5 * fractal) * most / (most + 1.5)
    torch.testing.assert_close(file._fog(x, (1.5, 1.7), draws(3)), expected)


def test_a_fractal_is_as_rough_at_each_scale_as_its_decay_says():
    x = torch.zeros(200, 1, 64, 64)
    plane = file._plasma(x, 1.5, draws(200))[:, 0]
    assert torch.equal(plane.amin((1, 2)), torch.zeros(200))
    assert torch.equal(plane.amax((1, 2)), torch.ones(200))
    torus = (plane - plane.roll(1, 2)).square().mean(0)  # no seam where the last column meets the first
    assert torus[:, 0].mean() == pytest.approx(torus[:, 1:].mean().item(), rel=0.2)
    torus = (plane - plane.roll(1, 1)).square().mean(0)
    assert torus[0].mean() == pytest.approx(torus[1:].mean().item(), rel=0.2)
    # a point halfway is the mean of its neighbours, but for a uniform displacement, smaller by decay² at each scale
    wobble = []
    for half in (1, 2, 4):
        grid = plane[:, ::half, ::half]
        corners = grid[:, ::2, ::2]
        centres = grid[:, 1::2, 1::2]
        around = corners + corners.roll(-1, 1) + corners.roll(-1, 2) + corners.roll((-1, -1), (1, 2))
        wobble.append((centres - around / 4).std().item())
        edges = grid[:, ::2, 1::2] - (corners + corners.roll(-1, 2) + centres + centres.roll(1, 1)) / 4
        assert edges.std() == pytest.approx(wobble[-1], rel=0.1)
        edges = grid[:, 1::2, ::2] - (corners + corners.roll(-1, 1) + centres + centres.roll(1, 2)) / 4
        assert edges.std() == pytest.approx(wobble[-1], rel=0.1)
    assert [wobble[1] / wobble[0], wobble[2] / wobble[1]] == pytest.approx([1.5**2] * 2, rel=0.1)


def test_contrast_and_pixels_by_hand():
    x = noise(2, 3, 8, 12)
    mean = x.mean((2, 3), keepdim=True)
    torch.testing.assert_close(file._contrast(x, 0.25, draws(2)), mean + 0.25 * (x - mean))
    blocks = x.unflatten(3, (6, 2)).unflatten(2, (4, 2)).mean((3, 5))
    coarse = file._pixelate(x, 0.5, draws(2))
    expected = blocks.repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(coarse, expected, atol=1.5 / 255, rtol=0)
    assert file._pixelate(x, 0.01, draws(2)).flatten(2).std(2).max() == 0  # one pixel is left


def test_an_elastic_transforms_affine_part_carries_three_points():
    x = places(20)
    away = file._elastic_transform(x, (0, 0, 3.0), draws(20)) - x  # (B, 2, H, W), to where each pixel comes from
    near = away[:, :, HEIGHT // 2 - 5 : HEIGHT // 2 + 6, WIDTH // 2 - 5 : WIDTH // 2 + 6]
    by_column, by_row = near.diff(dim=3), near.diff(dim=2)
    for slope in (by_column, by_row):
        assert (slope - slope.mean((2, 3), keepdim=True)).abs().max() < 1e-4
    points = HEIGHT // 3 * torch.tensor([[1, 1], [1, -1], [-1, -1]])  # (x, y) from the centre
    moved = points + 3.0 * (2 * draws(20).uniform(3, 2, like=x) - 1)
    linear = torch.stack([by_column.mean((2, 3)), by_row.mean((2, 3))], 1)
    home = moved + near[:, None, :, 5, 5] + moved @ linear
    torch.testing.assert_close(home, points.float().expand(20, 3, 2), atol=1e-3, rtol=0)


def test_an_elastic_transforms_displacements_are_smoothed_noise():
    x = places(100)
    away = (file._elastic_transform(x, (30.0, 3.0, 0), draws(100)) - x)[:, :, 8:-8, 8:-8]
    expected = 30 / 3**0.5 / (2 * 3.0 * math.pi**0.5)  # uniform in ±1, under a Gaussian of that deviation
    assert away.std((0, 2, 3)).tolist() == pytest.approx([expected] * 2, rel=0.1)
    neighbours = torch.corrcoef(torch.stack([away[..., 1:].flatten(), away[..., :-1].flatten()]))[0, 1]
    assert neighbours == pytest.approx(math.exp(-1 / (4 * 3.0**2)), abs=0.01)
