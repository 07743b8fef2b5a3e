"""Crop boxes against torchvision's; crops that know where they came from."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pictures import Pictures, jpeg, ramp, read_ramp
from PIL import Image
from scipy.stats import ks_2samp, kstest
from torchvision.transforms import RandomResizedCrop

from glocal.views import Crop, Recipe, ViewLoader
from glocal.views.geometry import (
    crop_affine,
    crop_boxes,
    draw_boxes,
    magnification,
    needed_scale,
    place_boxes,
    reduction,
    whole_boxes,
)

DRAWS = 1500


def sample_boxes(crops, width, height, *, seed, epoch, sample):
    return place_boxes(crops, draw_boxes(crops, seed=seed, epoch=epoch, samples=[sample])[0], width, height)


def our_boxes(crop: Crop, width: int, height: int) -> tuple[np.ndarray, np.ndarray]:
    drawn = [sample_boxes([crop], width, height, seed=0, epoch=0, sample=i) for i in range(DRAWS)]
    return np.concatenate([boxes for boxes, _ in drawn]), np.concatenate([flips for _, flips in drawn])


@pytest.mark.parametrize(
    ("width", "height", "scale", "ratio"),
    [
        (4000, 3000, (0.08, 1.0), (3 / 4, 4 / 3)),
        (3000, 4000, (0.4, 1.0), (3 / 4, 4 / 3)),
        (6000, 1000, (0.3, 1.0), (3 / 4, 4 / 3)),  # nearly all fall back to the central box
        (2000, 6000, (0.05, 0.6), (1 / 2, 2)),
    ],
)
def test_boxes_are_distributed_as_torchvisions(width, height, scale, ratio):
    boxes, flips = our_boxes(Crop(96, scale=scale, ratio=ratio), width, height)
    ours = np.column_stack([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        image = torch.zeros(1, 1, 1).expand(1, height, width)
        top_left_height_width = [RandomResizedCrop.get_params(image, scale, ratio) for _ in range(DRAWS)]
    theirs = np.array(top_left_height_width, dtype=np.float64)[:, [1, 0, 3, 2]]

    def measures(b):
        left, top, w, h = np.round(b).T
        return {
            "area": w * h,
            "aspect": np.round(w / h, 2),
            "x": left / np.maximum(width - w, 1),
            "y": top / np.maximum(height - h, 1),
        }

    for name, values in measures(ours).items():
        assert ks_2samp(values, measures(theirs)[name]).pvalue > 0.003, name
    assert (boxes[:, :2] >= -1e-9).all()
    assert (boxes[:, 2:] <= np.array([width, height]) + 1e-9).all()
    assert abs(flips.mean() - 0.5) < 0.06


def test_area_is_uniform_and_log_aspect_is_uniform():
    """Where every try fits, the distribution is known in closed form."""
    boxes, _ = our_boxes(Crop(96, scale=(0.1, 0.3), ratio=(1 / 2, 2)), 100, 100)
    w, h = (boxes[:, 2:] - boxes[:, :2]).T
    assert kstest(w * h / 100**2, "uniform", args=(0.1, 0.2)).pvalue > 0.01
    assert kstest(np.log(w / h), "uniform", args=(-np.log(2), 2 * np.log(2))).pvalue > 0.01
    assert abs(np.corrcoef(w * h, w / h)[0, 1]) < 0.1


@pytest.mark.parametrize(
    ("width", "height", "box"), [(100, 10, [130 / 3, 0, 170 / 3, 10]), (10, 100, [0, 130 / 3, 10, 170 / 3])]
)
def test_fallback_is_the_largest_central_box(width, height, box):
    boxes, _ = sample_boxes([Crop(8, scale=(0.9, 1.0))], width, height, seed=0, epoch=0, sample=0)
    np.testing.assert_allclose(boxes[0], box)


def test_fallback_is_the_whole_image_when_its_aspect_is_allowed():
    boxes, _ = sample_boxes([Crop(8, scale=(1.5, 2.0))], 30, 40, seed=0, epoch=0, sample=0)
    np.testing.assert_allclose(boxes[0], [0, 0, 30, 40])


def test_boxes_depend_on_every_key_and_on_nothing_else():
    crops = [Crop(96), Crop(96), Crop(96, flip=0.0)]
    key = {"seed": 1, "epoch": 2, "sample": 3}
    boxes, flips = sample_boxes(crops, 60, 40, **key)
    alone, _ = sample_boxes(crops[:1], 60, 40, **key)
    np.testing.assert_array_equal(boxes[0], alone[0])
    assert np.abs(boxes[0] - boxes[1]).max() > 1e-3
    assert not flips[2]
    for name in key:
        other, _ = sample_boxes(crops, 60, 40, **{**key, name: 77})
        assert np.abs(other - boxes).max(axis=1).min() > 1e-3


def test_crop_affine_carries_corners_to_corners():
    box = np.array([10.0, 20.0, 50.0, 100.0])
    corners = np.array([[0, 0, 1], [8, 0, 1], [8, 8, 1]])
    np.testing.assert_allclose(corners @ crop_affine(box, False, (8, 8)).T, [[10, 20], [50, 20], [50, 100]])
    np.testing.assert_allclose(corners @ crop_affine(box, True, (8, 8)).T, [[50, 20], [10, 20], [10, 100]])


@pytest.mark.parametrize(
    ("boxes", "sizes", "scale"),
    [
        ([[0, 0, 80, 80], [0, 0, 40, 60]], [10, 10], 1 / 4),  # the second is magnified most, along its short side
        ([[0, 0, 80, 80], [0, 0, 40, 60]], [40, 10], 1 / 2),
        ([[0, 0, 80, 80], [0, 0, 5, 60]], [10, 10], 1.0),
    ],
)
def test_the_most_magnified_crop_decides_the_scale(boxes, sizes, scale):
    assert needed_scale(np.array(boxes, dtype=float), np.array(sizes)[:, None]) == scale


@pytest.mark.parametrize(("width", "height"), [(500, 375), (375, 500), (3000, 2000), (4000, 90), (50, 40)])
def test_no_crop_needs_more_than_the_recipes_magnification(width, height):
    """Over many draws the bound holds, and is nearly reached."""
    crops = [Crop(96), Crop(64, scale=(0.05, 0.2), ratio=(1 / 2, 2))]
    draws = draw_boxes(crops, seed=0, epoch=0, samples=np.arange(3000))
    needs = [needed_scale(place_boxes(crops, d, width, height)[0], np.array([[96], [64]])) for d in draws]
    bound = magnification(crops, width, height)
    assert max(needs) <= bound + 1e-9
    assert max(needs) > 0.9 * bound


def test_whole_boxes_stay_inside_and_are_never_empty():
    boxes = np.array([[0, 0, 0.2, 0.2], [99.9, 49.9, 100, 50], [10.4, 20.6, 30.4, 40.6]])
    whole = whole_boxes(boxes, (0.5, 1.0), 50, 50)
    assert whole.tolist() == [[0, 0, 1, 1], [49, 49, 50, 50], [5, 21, 15, 41]]


@pytest.mark.parametrize(
    ("full", "decoded", "expected"),
    [
        ((1003, 701), (1003, 701), (1, 1)),
        ((1003, 701), (502, 351), (1 / 2, 1 / 2)),
        ((1003, 701), (126, 88), (1 / 8, 1 / 8)),
        ((1000, 700), (300, 70), (0.3, 0.1)),
    ],
)
def test_reduction(full, decoded, expected):
    assert reduction(full, decoded) == pytest.approx(expected, abs=0)


def test_a_crop_is_what_pillow_cuts():
    array = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    boxes = [(3, 5, 44, 31), (0, 0, 50, 40), (20, 10, 28, 20)]
    for box, crop in zip(boxes, crop_boxes(torch.from_numpy(array), np.array(boxes), np.full((3, 2), 16)), strict=True):
        expected = Image.fromarray(array).crop(box).resize((16, 16), Image.Resampling.BICUBIC)
        assert np.abs(crop.numpy().astype(int) - np.asarray(expected)).max() <= 1  # of 255: rounding


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_tiny_images_give_crops(size):
    source = Pictures([np.full((size[1], size[0], 3), 9, np.uint8)] * 4)
    batch = next(ViewLoader(source, Recipe((Crop(16),)), batch_size=4, seed=0).epoch(0))
    assert (batch.views[0].pixels == 9).all()


@pytest.mark.parametrize(
    ("width", "height", "encode", "scale", "least_reduced"),
    [
        (130, 70, None, (0.05, 1.0), 1),
        (61, 233, None, (0.05, 1.0), 1),
        (251, 403, jpeg, (0.1, 1.0), 2),
        (603, 333, jpeg, (0.6, 1.0), 4),
        (1003, 701, jpeg, (0.6, 1.0), 8),
        (701, 2003, jpeg, (0.6, 1.0), 8),
    ],
)
def test_painted_coordinates_come_home(width, height, encode, scale, least_reduced):
    """Each source pixel says where it is; after crop, resize, flip and reduced decoding the views must say the same.

    An error of half a source pixel, or of half a crop pixel, in any of them would show in the bias.
    """
    image = ramp(width, height)
    source = Pictures([encode(image) if encode else image] * 24)
    size = 40
    recipe = Recipe((Crop(size, scale=scale), Crop(24, scale=scale)))
    batch = next(ViewLoader(source, recipe, batch_size=24, seed=1).epoch(0))
    assert 4 < batch.views[0].flipped.sum() < 20
    if encode:  # make sure that reduced decoding happens
        short = min((batch.views[0].affine[:, [0, 1], [0, 1]].abs() * size).min().item(), min(width, height))
        assert source.open(0).decode(scale=size / short).shape[1] == -(-width // least_reduced)
    pixel = np.array([width, height])
    level = pixel / 256  # source pixels per grey level
    for view in batch.views:
        side = view.pixels.shape[-1]
        colours = view.pixels.permute(0, 2, 3, 1).numpy()
        where = view.centers(side, side).numpy()
        magnify = view.affine[:, [0, 1], [0, 1]].abs().numpy()[:, None, None]  # source pixels per crop pixel
        margin = 3 * np.maximum(magnify, least_reduced)  # bicubic changes slope at the border
        inside = ((where > margin) & (where < pixel - margin)).all(-1)
        error = (read_ramp(colours, width, height) - where) / level
        assert (np.abs(error)[inside] < 2.6).all()
        for mirrored in (False, True):  # together they would hide a shift
            of_crop = np.array(
                [e[i].mean(0) for e, i, f in zip(error, inside, view.flipped, strict=True) if f == mirrored]
            )
            assert np.nanmax(np.abs(of_crop)) < 0.5
            assert np.abs(np.nanmean(of_crop, axis=0)).max() < 0.22

        blocks = where.reshape(len(where), 4, side // 4, 4, side // 4, 2).mean((2, 4))
        np.testing.assert_allclose(view.centers(4, 4).numpy(), blocks, rtol=1e-5, atol=1e-3)
