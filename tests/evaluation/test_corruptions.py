import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from glocal.data import PartsWorld
from glocal.errors import UsageError
from glocal.evaluation.corruptions import CORRUPTIONS, Draws, _brightness, _elastic_transform, _plasma, _smear, corrupt
from glocal.evaluation.severities import SEVERITIES, nearest_size

UNORDERED = {"glass_blur", "frost", "elastic_transform"}
"""Whose published severities trade one constant against another, so that pixels do not tell them apart in order."""


def images(count, side, classes=4):
    world = PartsWorld(count, side, split="test", classes=classes)
    return torch.from_numpy(np.stack([world.sample(i).image for i in range(count)]))


def psnr(a, b):
    error = (a.double() - b.double()).square().mean((1, 2, 3))
    return float((10 * torch.log10(255**2 / error)).mean())


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_severity_is_further_from_the_image(name, side):
    x = images(6, side)
    before = x.clone()
    levels = []
    for severity in range(1, 6):
        y = corrupt(x, name, severity, seed=1)
        assert y.dtype == torch.uint8
        assert y.shape == x.shape
        levels.append(psnr(y, x))
    assert all(5 < level < 50 for level in levels)
    if name not in UNORDERED:
        slack = 0.7 if name == "snow" else 0  # its flakes change size with severity, hence place
        assert all(more <= less + slack for less, more in pairwise(levels))
        assert levels[0] > levels[-1] + 2
    assert torch.equal(x, before)
    assert corrupt(x, name, 0) is x


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_corrupted_image_depends_on_itself_its_name_and_the_seed_alone(name):
    x = images(4, 32)
    state = torch.get_rng_state()
    whole = corrupt(x, name, 3, seed=5, samples=[7, 8, 9, 10])
    assert torch.equal(whole, corrupt(x, name, 3, seed=5, samples=[7, 8, 9, 10]))
    assert torch.equal(torch.get_rng_state(), state)
    alone = corrupt(x[2:3], name, 3, seed=5, samples=[9])
    assert (whole[2].int() - alone[0].int()).abs().max() <= 1  # sums are rounded differently in another batch size
    fixed = {"defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression"}
    assert torch.equal(whole, corrupt(x, name, 3, seed=6, samples=[7, 8, 9, 10])) == (name in fixed)


@pytest.mark.parametrize("name", [name for name in CORRUPTIONS if name not in ("frost", "elastic_transform")])
def test_they_are_as_strong_as_another_implementation_makes_them(name):
    golden = json.loads((Path(__file__).parents[1] / "golden" / "corruptions.json").read_text())["psnr"][name]
    loose = {"motion_blur": 0.5, "snow": 0.7, "fog": 1.5, "brightness": 0.4, "glass_blur": 1.5}
    x = images(4, 224)
    for severity in range(1, 6):
        assert psnr(corrupt(x, name, severity), x) == pytest.approx(golden[severity - 1], abs=loose.get(name, 0.1))


def test_every_size_has_every_corruption_at_five_severities():
    for table in SEVERITIES.values():
        assert set(table) == set(CORRUPTIONS)
        assert {len(row) for row in table.values()} == {5}
    assert [nearest_size(side) for side in (28, 32, 64, 96, 119, 120, 224, 448)] == [32, 32, 64, 64, 64, 224, 224, 224]


def test_brightness_is_that_of_hsv():
    import colorsys

    x = torch.rand(1, 3, 2, 3)
    x[..., 0, 0] = 0
    y = _brightness(x, 0.2, Draws(0, "", [0]))
    for i, j in np.ndindex(2, 3):
        hue, saturation, value = colorsys.rgb_to_hsv(*x[0, :, i, j].tolist())
        expected = colorsys.hsv_to_rgb(hue, saturation, min(1, value + 0.2))
        np.testing.assert_allclose(y[0, :, i, j].numpy(), expected, atol=1e-5)


def test_a_smear_runs_one_way_along_its_angle():
    x = torch.zeros(2, 1, 15, 15)
    x[:, :, 7, 7] = 1
    y = _smear(x, 4, 2.0, torch.tensor([0.0, torch.pi / 2]))
    weights = torch.exp(-torch.arange(8.0).square() / 8)
    weights = weights / weights[weights > 1e-3].sum()
    torch.testing.assert_close(y[0, 0, 7, 2:8].flip(0), weights[:6], atol=2e-3, rtol=0)
    torch.testing.assert_close(y[1, 0, :, 7], y[0, 0, 7])
    assert y[0, 0, 7, 8:].abs().max() < 1e-4


def test_an_elastic_transform_of_no_strength_changes_nothing():
    x = torch.rand(2, 3, 20, 24)
    torch.testing.assert_close(_elastic_transform(x, (0, 0, 0), Draws(0, "", [0, 1])), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(_elastic_transform(x, (1e-6, 2.0, 0), Draws(0, "", [0, 1])), x, atol=1e-4, rtol=0)
    assert (_elastic_transform(x, (1, 2.0, 0), Draws(0, "", [0, 1])) - x).abs().max() > 0.1


def test_plasma_fills_its_range_and_gets_rougher_as_its_decay_falls():
    x = torch.zeros(4, 3, 60, 40)
    rough = []
    for decay in (3.0, 2.0, 1.4):
        plane = _plasma(x, decay, Draws(0, "", range(4)))
        assert plane.shape == (4, 1, 60, 40)
        assert 0 <= plane.min() <= plane.max() <= 1
        rough.append(float(plane.diff(dim=3).abs().mean()))
    assert rough == sorted(rough)


def test_wrong_names_and_severities_are_refused():
    x = images(1, 32)
    with pytest.raises(UsageError, match="unknown corruption 'rain'"):
        corrupt(x, "rain", 1)
    with pytest.raises(UsageError, match="severity is 6"):
        corrupt(x, "fog", 6)
