"""The segmentation head: masks follow the crops, and what it writes is read as masks."""

import json

import numpy as np
import pytest
import torch

from glocal.adaptation.segment import Segment
from glocal.data import RawImage, open_source
from glocal.data.masks import read_mask
from glocal.errors import UsageError
from glocal.evaluation.segment import looks_of
from glocal.run import Run
from glocal.views import Batch, Crop, Recipe, View, ViewLoader, grid_centers


class Painted:
    """Images whose colour tells the class of each pixel: what a crop shows, its mask must say."""

    name, has_masks, mask_classes, ignore_index, labels, groups = "painted", True, ["a", "b", "c"], None, None, None
    classes = captions = keypoints = None
    note = ""

    def __len__(self):
        return 4

    def key(self, i):
        return str(i)

    def mask(self, i):
        blocks = np.random.default_rng(i).integers(0, 3, (5, 6))
        return np.kron(blocks, np.ones((8, 8), int)).astype(np.uint8)

    def open(self, i):
        return RawImage(np.repeat(self.mask(i)[:, :, None] * 100, 3, 2).astype(np.uint8))


def test_masks_follow_the_crops():
    known = Segment.read(Painted())
    loader = ViewLoader(known.source, Recipe((Crop(32, scale=(0.2, 1.0)),)), batch_size=4, seed=0)
    mirrored = 0
    for epoch in range(4):
        (batch,) = loader.epoch(epoch)
        target = known.target(batch)
        assert target.shape == (4, 16, 16)
        mirrored += int(batch.views[0].flipped.sum())
        seen = torch.nn.functional.avg_pool2d(batch.views[0].pixels.float(), 2)[:, 0] / 100
        sure = (seen - seen.round()).abs() < 0.02  # bicubic blends at the edges
        assert sure.float().mean() > 0.3
        right = (seen.round().long() == target)[sure].float().mean()
        assert right > 0.97, "colours and classes are of the same place, up to rounding at edges"
    assert 0 < mirrored < 16


def test_enlarged_logits_peak_where_the_cells_look():
    """Each cell of a map is sure of a class of its own: the pixel that it looks at is of that class."""
    cells = grid_centers(3, 4, 30, 40) + torch.tensor([2.0, 3.0])  # off the uniform grid, as a ResNet's are
    looks = looks_of(cells, 40)
    logits = torch.eye(12).unflatten(1, (3, 4)) * 9
    answer = Segment(2, list("abcdefghijkl")).answer(logits, (400, 400), looks)
    assert answer.shape == (400, 400)
    for k, (x, y) in enumerate((cells.flatten(0, 1) * 10).long().tolist()):
        assert answer[min(y, 399), min(x, 399)] == k


def test_the_loss_ignores_pixels_of_which_nothing_is_known():
    head, looks = Segment(2, ["a", "b"]), [np.array([0.25, 0.75])] * 2
    target = torch.tensor([[[0, -1], [1, -1]]])
    each, classes = head.losses(torch.zeros(1, 2, 2, 2), target, looks)
    assert classes.tolist() == [0, 1]
    torch.testing.assert_close(each, torch.full((2,), float(np.log(2))))


def test_it_learns_the_planted_parts(segmenter, world):
    found, test = Run(segmenter).scores()["segment"], open_source(world, split="val")
    pixels = np.bincount(np.concatenate([test.mask(i).ravel() for i in range(len(test))]), minlength=7)
    constant = pixels.max() / pixels.sum() / 7  # all of the commonest class
    assert found["miou"] > constant + 0.05


def test_what_it_writes_is_read_as_masks(tmp_path):
    head = Segment(2, ["sky", "road", "car"])
    mask = np.random.default_rng(0).integers(0, 3, (7, 9)).astype(np.uint8)
    head.write(tmp_path / "masks", [("street/1.jpg", mask)])
    assert np.array_equal(read_mask(tmp_path / "masks" / "street" / "1.png"), mask)
    assert json.loads((tmp_path / "masks" / "classes.json").read_text()) == {"names": ["sky", "road", "car"]}
    with pytest.raises(UsageError, match="folder"):
        head.write(tmp_path / "masks.csv", [])


def test_a_split_without_some_class_is_numbered_alike():
    world = open_source("parts:n=4,size=32")
    names = [*reversed(world.mask_classes)]
    known = Segment.read(world, names).source
    again = np.array([names.index(name) for name in world.mask_classes])
    assert np.array_equal(known.mask(0), again[world.mask(0)])


def test_masks_stay_with_their_images_in_a_batch():
    known = Segment.read(Painted())
    batch = Batch([], torch.tensor([2]))
    batch.views = [View(torch.zeros(1, 3, 80, 96), torch.tensor([[[0.5, 0, 0], [0, 0.5, 0]]]))]
    assert np.array_equal(known.target(batch)[0].numpy(), Painted().mask(2))
