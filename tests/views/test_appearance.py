"""Appearance against torchvision, one operation at a time and all of them in sequence."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torchvision.transforms.v2.functional as F
from torch import Tensor

from glocal.views import Appearance, Batch, Crop, Recipe, View, appearance as ours, two_views
from glocal.views.appearance import AugmentParams, draw, render

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(count: int = 6, size: int = 20) -> Tensor:
    """Random, flat, two equal channels, pure colours, greys, black and white: where the cases of HSV meet."""
    x = torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))
    x[1, :, :5] = 0.3
    x[1, 1] = x[1, 0]
    x[2] = (x[2] > 0.5).float()
    x[3, :] = x[3, :1]
    x[4] = (x[4] * 255).round() / 255
    x[5, :, :10], x[5, :, 10:] = 0.0, 1.0
    return x


@pytest.mark.parametrize(
    ("mine", "theirs", "tolerance"),
    [
        (ours.brightness_, F.adjust_brightness, 1e-6),
        (ours.contrast_, F.adjust_contrast, 1e-6),
        (ours.saturation_, F.adjust_saturation, 1e-6),
    ],
)
def test_colour_operations_are_torchvisions(mine, theirs, tolerance):
    x = images()
    for factors in ([0.0, 0.2, 0.6, 1.0, 1.4, 2.5], [2.5, 1.4, 1.0, 0.6, 0.2, 0.0]):
        expected = torch.stack([theirs(one, f) for one, f in zip(x, factors, strict=True)])
        torch.testing.assert_close(mine(x.clone(), torch.tensor(factors)), expected, atol=tolerance, rtol=0)


@pytest.mark.parametrize("turn", [-0.5, -0.31, -0.1, 0.0, 0.05, 1 / 6, 0.5])
def test_hue_is_torchvisions(turn):
    x = images()
    result = ours.hue_(x.clone(), torch.full((len(x),), turn))
    torch.testing.assert_close(result, F.adjust_hue(x, turn), atol=1e-5, rtol=0)


def test_hue_by_hand():
    """A third of the circle carries red to green to blue; greys stay."""
    x = torch.tensor([[0.9, 0.1, 0.2], [0.5, 0.5, 0.5]])[:, :, None, None]
    turned = ours.hue_(x.clone(), torch.tensor([1 / 3, 1 / 3]))[:, :, 0, 0]
    torch.testing.assert_close(turned, torch.tensor([[0.2, 0.9, 0.1], [0.5, 0.5, 0.5]]))


def test_gray_and_solarize_are_torchvisions():
    x = images()
    torch.testing.assert_close(ours.gray_(x.clone()), F.rgb_to_grayscale(x, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(ours.solarize_(x.clone()), F.solarize(x, 0.5), atol=0, rtol=0)


@pytest.mark.parametrize(("size", "radius"), [(20, 8), (20, 3), (9, 8), (5, 4)])
def test_blur_is_torchvisions(size, radius):
    x = images(size=size)
    sigmas = [0.1, 0.25, 0.6, 1.0, 1.7, 2.0]
    expected = torch.stack(
        [F.gaussian_blur(one, 2 * radius + 1, s) for one, s in zip(x, sigmas, strict=True)]  # reflects, too
    )
    torch.testing.assert_close(ours.blur_(x, torch.tensor(sigmas), radius), expected, atol=2e-6, rtol=0)


def test_blur_of_an_image_smaller_than_the_kernel():
    x = images(size=3)
    expected = torch.stack([F.gaussian_blur(one, 5, 2.0) for one in x])
    torch.testing.assert_close(ours.blur_(x, torch.full((6,), 2.0), 8), expected, atol=2e-6, rtol=0)


def one_at_a_time(pixels: Tensor, plan: AugmentParams) -> Tensor:
    """What a plan says, image by image, with torchvision's functions."""
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    done = []
    for i, image in enumerate(F.to_dtype(pixels, torch.float32, scale=True)):
        for k in plan.order[i]:
            if k >= 0:
                image = adjust[k](image, float(plan.factor[i, k]))
        if plan.gray[i]:
            image = F.rgb_to_grayscale(image, 3)
        if plan.sigma[i] > 0:
            image = F.gaussian_blur(image, 2 * plan.radius + 1, float(plan.sigma[i]))
        if plan.solarize[i]:
            image = F.solarize(image, 0.5)
        done.append(F.normalize(image, MEAN, STD))
    return torch.stack(done)


def bytes_of(x: Tensor) -> Tensor:
    return (x * 255).round().to(torch.uint8).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("at_once", [1, 5, 100, None])
def test_all_orders_and_combinations_are_carried_out_as_planned(at_once, monkeypatch):
    if at_once is None:
        monkeypatch.setattr(ours, "calls_are_cheap", lambda x: False)  # what a GPU does
    else:
        monkeypatch.setattr(ours, "CACHE", at_once * 3 * 20 * 20)
    orders = np.array([*itertools.permutations(range(4)), [-1] * 4, [-1, 2, -1, 0]])
    count = len(orders)
    rng = np.random.default_rng(0)
    plan = AugmentParams(
        order=orders,
        factor=rng.uniform([0.5, 0.5, 0.5, -0.3], [1.5, 1.5, 1.5, 0.3], (count, 4)),
        gray=np.arange(count) % 5 == 0,
        sigma=np.where(np.arange(count) % 3 == 0, rng.uniform(0.1, 2, count), 0),
        solarize=np.arange(count) % 4 == 0,
        radius=8,
    )
    pixels = bytes_of(torch.cat([images()] * 5)[:count])
    result = render(pixels, plan, MEAN, STD)
    assert result.dtype == torch.float32
    assert result.is_contiguous(memory_format=torch.channels_last)
    # after /std, an error of 1e-5 is one of 5e-5; solarize turns an error at its threshold into none
    torch.testing.assert_close(result, one_at_a_time(pixels, plan), atol=5e-5, rtol=0)


def test_nothing_to_do_is_normalisation_alone():
    pixels = bytes_of(images())
    crop = Crop(20, jitter=0.0, gray=0.0)
    batch = Batch([View(pixels, torch.zeros(6, 2, 3))], torch.arange(6))
    result = Appearance(Recipe((crop,)), MEAN, STD, seed=0)(batch, 0).views[0].pixels
    expected = F.normalize(F.to_dtype(pixels, torch.float32, scale=True), MEAN, STD)
    torch.testing.assert_close(result, expected, atol=1e-6, rtol=0)
    assert torch.equal(batch.views[0].pixels, bytes_of(images()))  # the batch itself is left as it was


def test_finished_views_are_left_as_they_are_and_results_can_be_put_anywhere():
    recipe = Recipe((Crop(20),))
    appearance = Appearance(recipe, MEAN, STD, seed=0)
    batch = Batch([View(bytes_of(images()), torch.zeros(6, 2, 3))], torch.arange(6))
    finished = appearance(batch, 3)
    into = torch.empty(6, 20, 20, 3).permute(0, 3, 1, 2)
    assert appearance(batch, 3, out=[into]).views[0].pixels is into
    assert torch.equal(into, finished.views[0].pixels)
    assert appearance(finished, 4).views[0].pixels is finished.views[0].pixels


def test_plans_follow_the_recipe():
    crop = Crop(8, jitter=0.7, brightness=0.4, contrast=1.3, saturation=0.2, hue=0.1, gray=0.2, blur=0.3, solarize=0.6)
    count = 6000
    plan = draw(crop, 0, 0, np.arange(count), 0)
    jittered = plan.order[:, 0] >= 0
    for share, expected in [(jittered, 0.7), (plan.gray, 0.2), (plan.sigma > 0, 0.3), (plan.solarize, 0.6)]:
        assert abs(share.mean() - expected) < 4 * np.sqrt(expected * (1 - expected) / count)
    both = jittered & plan.gray  # independent of each other
    assert abs(both.mean() - 0.14) < 0.02
    assert (plan.order[~jittered] == -1).all()
    orders, counts = np.unique(plan.order[jittered], axis=0, return_counts=True)
    assert len(orders) == 24
    assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()
    low, high = np.array([0.6, 0.0, 0.8, -0.1]), np.array([1.4, 2.3, 1.2, 0.1])
    filled = (plan.factor - low) / (high - low)
    assert filled.min() >= 0
    assert filled.max() <= 1
    np.testing.assert_allclose(filled.mean(0), 0.5, atol=0.02)
    np.testing.assert_allclose(filled.std(0), np.sqrt(1 / 12), atol=0.01)
    sigma = plan.sigma[plan.sigma > 0]
    assert sigma.min() >= 0.1
    assert sigma.max() <= 2
    assert abs(sigma.mean() - 1.05) < 0.06
    assert plan.radius == 8


def test_operations_of_zero_width_are_left_out():
    plan = draw(Crop(8, jitter=1.0, contrast=0.0, hue=0.0), 0, 0, np.arange(100), 0)
    assert set(plan.order.ravel().tolist()) == {-1, 0, 2}


def test_parameters_depend_on_seed_epoch_sample_and_view_alone():
    crop = Crop(8, blur=0.5, solarize=0.5)

    def numbers(seed=0, epoch=0, index=range(50), view=0):
        return draw(crop, seed, epoch, np.array(index), view).factor

    base = numbers()
    np.testing.assert_array_equal(base[[7, 3]], numbers(index=[7, 3]))
    for other in (numbers(seed=1), numbers(epoch=1), numbers(view=1), numbers(index=range(50, 100))):
        assert (base != other).all()


def test_batch_in_any_company_and_the_rest_of_it_untouched():
    recipe = two_views(20)
    pixels = bytes_of(images())
    affine = torch.rand(6, 2, 3)
    kept = torch.arange(6)[:, None]
    batch = Batch([View(pixels, affine, kept=kept)] * 2, torch.arange(6) * 10, torch.arange(6), skipped=((3, "bad"),))
    appearance = Appearance(recipe, MEAN, STD, seed=5)
    result = appearance(batch, 2)
    assert result.skipped == batch.skipped
    assert torch.equal(result.label, batch.label)
    assert all(v.affine is affine and v.kept is kept for v in result.views)
    rows = torch.tensor([4, 1])
    part = Batch([View(pixels[rows], affine[rows])] * 2, batch.index[rows])
    for few, many in zip(appearance(part, 2, device="cpu").views, result.views, strict=True):
        torch.testing.assert_close(few.pixels, many.pixels[rows], atol=1e-5, rtol=0)
    assert not torch.allclose(result.views[0].pixels, result.views[1].pixels)
    assert not torch.allclose(result.views[0].pixels, appearance(batch, 3).views[0].pixels)


def test_other_number_of_views_than_the_recipe_has():
    batch = Batch([View(bytes_of(images()), torch.zeros(6, 2, 3))], torch.arange(6))
    with pytest.raises(ValueError, match="zip"):
        Appearance(two_views(20), MEAN, STD, seed=0)(batch, 0)


@pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]
)
def test_mixed_precision_around_it_changes_nothing(device):
    batch = Batch([View(bytes_of(images()), torch.zeros(6, 2, 3))] * 2, torch.arange(6))
    appearance = Appearance(two_views(20), MEAN, STD, seed=0)
    plain = appearance(batch, 0)
    with torch.autocast(device, dtype=torch.bfloat16):
        inside = appearance(batch, 0, device=device)
    for a, b in zip(plain.views, inside.views, strict=True):
        assert b.pixels.dtype == torch.float32
        torch.testing.assert_close(a.pixels, b.pixels.cpu(), atol=1e-4 if device == "cpu" else 1e-2, rtol=0)
