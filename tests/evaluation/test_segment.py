import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import confusion_matrix, jaccard_score

from glocal.errors import UsageError
from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.extract import extract
from glocal.evaluation.probe import Probes, Standardise
from glocal.evaluation.segment import (
    IGNORE,
    Classes,
    Scenes,
    confusion,
    count_confusions,
    iou,
    miou_interval,
    statistics,
)
from glocal.features import Features

DRAW = np.random.default_rng(0)


def even(height, width):
    """Where the cells of a map stretched over the image look."""
    return [(np.arange(n) + 0.5) / n for n in (width, height)]


def test_confusion_and_iou_equal_scikit_learns_on_what_is_not_ignored():
    truth = torch.from_numpy(DRAW.choice([0, 1, 2, 3, IGNORE], 500)).to(torch.uint8)
    predicted = torch.from_numpy(DRAW.integers(0, 4, 500))
    counts = confusion(predicted, truth, 4)
    kept = truth != IGNORE
    assert (counts.numpy() == confusion_matrix(truth[kept], predicted[kept])).all()
    np.testing.assert_allclose(iou(counts), jaccard_score(truth[kept], predicted[kept], average=None))


def test_a_class_that_is_nowhere_does_not_count():
    values = iou(torch.tensor([[3, 1, 0], [0, 2, 0], [0, 0, 0]]))
    assert values[:2].tolist() == [0.75, pytest.approx(2 / 3)]
    assert values[2].isnan()


@pytest.mark.parametrize("size", [(12, 20), (5, 3), (4, 5)])
def test_sampled_features_are_those_of_bilinear_upsampling(size):
    maps = torch.from_numpy(DRAW.normal(size=(2, 4, 5, 3))).half()
    masks = [DRAW.choice([0, 1, IGNORE], size).astype(np.uint8) for _ in range(2)]
    masks[1][0, 0] = 1
    upsampled = F.interpolate(maps.float().permute(0, 3, 1, 2), size=size, mode="bilinear", align_corners=False)
    # every pixel of image 1 once
    y, x = np.mgrid[: size[0], : size[1]]
    u = np.stack([np.full(y.size, 0.7), (x.ravel() + 0.5) / size[1], (y.ravel() + 0.5) / size[0]], 1)
    features, labels = Scenes(maps, masks, [even(4, 5)] * 2).sample(u, np.arange(2))
    kept = masks[1].ravel() != IGNORE
    torch.testing.assert_close(features, upsampled[1].flatten(1).T[torch.from_numpy(kept)], atol=1e-5, rtol=1e-4)
    assert (labels.numpy() == masks[1].ravel()[kept]).all()


def test_sampling_finds_the_right_pixel_of_masks_of_different_sizes():
    masks = [np.full((3, 7), 1, np.uint8), np.arange(20, dtype=np.uint8).reshape(4, 5), np.full((2, 2), 3, np.uint8)]
    scenes = Scenes(torch.zeros(3, 2, 2, 1), masks, [even(2, 2)] * 3)
    _, labels = scenes.sample(np.array([[0.5, 0.99, 0.3], [0.1, 0.0, 0.0], [0.9, 0.5, 0.5]]), np.arange(3))
    assert labels.tolist() == [9, 1, 3]
    _, labels = scenes.sample(DRAW.uniform(size=(50, 3)), np.array([2]))
    assert labels.unique().tolist() == [3]


def test_statistics_are_those_of_a_batch_norm_over_all_cells():
    maps = torch.from_numpy(DRAW.normal(3, 2, size=(37, 3, 4, 5))).half()
    rows = np.arange(1, 37)
    ours = statistics(maps, rows, torch.device("cpu"))
    theirs = Standardise.of(maps[1:].float().flatten(0, 2))
    torch.testing.assert_close(ours.mean, theirs.mean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(ours.std, theirs.std, atol=1e-4, rtol=1e-4)


def test_scores_are_taken_at_the_masks_resolution():
    maps = torch.from_numpy(DRAW.normal(size=(3, 4, 5, 6))).half()
    masks = [DRAW.choice([0, 1, 2, IGNORE], size).astype(np.uint8) for size in ((9, 11), (16, 10), (4, 4))]
    probes = Probes([(0.1, 0.0), (0.2, 0.0)], 6, 3)
    probes.weight.copy_(torch.from_numpy(DRAW.normal(size=(6, 2, 3))))
    scenes = Scenes(maps, masks, [even(4, 5)] * 3)
    standardise, everywhere = Standardise(torch.zeros(6), torch.ones(6)), torch.device("cpu")
    first, *others = count_confusions(probes, standardise, scenes, [0, 1, 2], everywhere)
    counts = first + sum(others)
    naive = torch.zeros(3, 3, dtype=torch.int64)
    for i, mask in enumerate(masks):
        conv = F.conv2d(maps[i].float().permute(2, 0, 1)[None], probes.weight[:, 1].T[:, :, None, None])
        predicted = F.interpolate(conv, size=mask.shape, mode="bilinear", align_corners=False)[0].argmax(0)
        for t, p in zip(mask.ravel(), predicted.numpy().ravel(), strict=True):
            if t != IGNORE:
                naive[t, p] += 1
    assert torch.equal(counts[1], naive)
    assert first.sum((1, 2)).tolist() == [(masks[0] != IGNORE).sum()] * 2  # of one image


def test_the_interval_of_mean_iou_is_that_of_images_drawn_again():
    draws = np.random.default_rng(0)
    right = draws.uniform(0.3, 0.9, 60)  # of 1,000 pixels of each of two classes, as many are confused either way
    counts = torch.from_numpy(1000 * np.stack([right, 1 - right, 1 - right, right], 1)).long().view(60, 2, 2)
    low, high = miou_interval(counts, seed=0)
    sums = [right[draws.integers(0, 60, 60)].mean() for _ in range(20_000)]
    expected = [share / (2 - share) for share in np.quantile(sums, [0.025, 0.975])]
    assert (low, high) == pytest.approx(expected, abs=0.006)
    assert miou_interval(counts, seed=0) == [low, high]
    assert miou_interval(counts[:1].expand(60, 2, 2), seed=0) == pytest.approx([float(iou(counts[0]).mean())] * 2)


def test_a_map_that_says_where_its_cells_look_is_read_as_the_place_of_each_pixel():
    looks = [(0.5 + 8 * np.arange(n)) / 64 for n in (8, 6)]  # columns to the left of the even grid's; rows end early
    maps = torch.from_numpy(np.stack(np.meshgrid(*looks), -1))[None].half()  # (1, 6, 8, 2): a cell's own place
    scenes = Scenes(maps, [np.zeros((40, 30), np.uint8)], [looks])
    places = DRAW.uniform(size=(200, 2))
    features, _ = scenes.sample(np.insert(places, 0, 0.0, axis=1), np.arange(1))
    pixels = (np.floor(places * [30, 40]) + 0.5) / [30, 40]
    seen = np.clip(pixels, 0.5 / 64, [56.5 / 64, 40.5 / 64])  # beyond the outermost cells, theirs
    np.testing.assert_allclose(features.numpy(), seen, atol=1e-3)
    x, y = scenes.enlarged(maps[0].permute(2, 0, 1).double(), 0).numpy()
    np.testing.assert_allclose(
        x, np.broadcast_to(np.clip((np.arange(30) + 0.5) / 30, None, 56.5 / 64), (40, 30)), atol=1e-3
    )
    np.testing.assert_allclose(
        y.T, np.broadcast_to(np.clip((np.arange(40) + 0.5) / 40, 0.5 / 64, 40.5 / 64), (30, 40)), atol=1e-3
    )


def exam_of(made, train_masks=None, test_masks=None, **options):
    (a, ma), (b, mb) = made.blocks(20, 0), made.blocks(10, 1)
    train = made.Scenes(a, ma if train_masks is None else train_masks, **options)
    test = made.Scenes(b, mb if test_masks is None else test_masks, **options)
    return EvalContext(made.Cells(), train, test, 32)


LEGEND = {"mask_classes": ["left", "right", *"23456", "void"], "ignore_index": 7}


def test_two_colours_are_told_apart_and_void_does_not_count(made):
    scores = find_task("segment")(exam_of(made, **LEGEND), steps=150, batch_size=256)
    assert scores["iou"]["left"] > 0.95
    assert scores["iou"]["right"] > 0.95
    assert scores["miou"] == pytest.approx((scores["iou"]["left"] + scores["iou"]["right"]) / 2)
    assert scores["iou"]["5"] is None
    assert "void" not in scores["iou"]
    assert scores["pixel_accuracy"] > 0.97
    assert scores["output_stride"] == 8


class Corners(torch.nn.Module):
    """An encoder whose cells look at the first pixel of their 8×8 patches, as a ResNet's do."""

    name, mean, std, image_size, stride = "corners", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32, 8

    def forward(self, x):
        maps = x[:, :, ::8, ::8]
        y, x = np.mgrid[: maps.shape[2], : maps.shape[3]]
        positions = torch.from_numpy(8 * np.stack([x, y], -1) + 0.5).float().flatten(0, 1)
        return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2), positions, maps.shape[2:])


def test_cells_are_read_where_they_look(made):
    masks = np.zeros((40, 64, 64), np.uint8)
    for mask, start in zip(masks, np.arange(40) % 8 + 13, strict=True):
        mask[:, start : start + 24] = 1  # a bar, which no threshold can move to one side
    images = np.stack([255 * masks, np.zeros_like(masks), 255 - 255 * masks], axis=3)
    train, test = (made.Scenes(images[half], masks[half]) for half in (slice(0, 30), slice(30, 40)))
    assert extract(Corners(), test, image_size=64, dense=True).cells[2, 3].tolist() == [24.5, 16.5]
    usual, ours = (find_task("segment")(EvalContext(e, train, test, 64), steps=150) for e in (made.Cells(), Corners()))
    assert usual["miou_uniform"] == usual["miou"]
    assert ours["miou_uniform"] < ours["miou"] - 0.1


def test_test_masks_influence_nothing_but_the_score(made):
    _, masks = made.blocks(10, 1)
    swapped = np.where(masks == 7, 7, 1 - masks).astype(np.uint8)
    truth, wrong = (find_task("segment")(exam_of(made, test_masks=m, **LEGEND), steps=60) for m in (masks, swapped))
    assert (truth["lr"], truth["validation_miou"]) == (wrong["lr"], wrong["validation_miou"])
    assert wrong["miou"] < 0.05 < truth["miou"]


def test_without_a_legend_the_training_masks_say_which_classes_there_are(made):
    masks = [np.array([[0, 3, 255]], np.uint8), np.array([[9, 9, 0]], np.uint8)]
    classes = Classes.of(made.Scenes(np.zeros((2, 4, 4, 3), np.uint8), masks), masks)
    assert classes.names == ["0", "3", "9"]
    assert classes.table[[0, 3, 9, 255, 4]].tolist() == [0, 1, 2, IGNORE, IGNORE]
    with pytest.raises(UsageError, match="segment needs two"):
        Classes.of(made.Scenes(np.zeros((1, 4, 4, 3), np.uint8), masks[:1], ignore_index=3), masks[:1])


def test_camvid_above_a_constant_answer(camvid, made):
    from glocal.data import open_source
    from glocal.evaluation import Pixels
    from glocal.evaluation.split import spread_over

    train, test = (spread_over(open_source(camvid, split=s), 24) for s in ("train", "test"))
    scores = find_task("segment")(EvalContext(Pixels(stride=8), train, test, 64), steps=200, batch_size=256)
    assert len(scores["iou"]) == 11
    assert 0.1 < scores["miou"] < 0.5
    assert scores["pixel_accuracy"] > 0.4
