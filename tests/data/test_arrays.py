from __future__ import annotations

import numpy as np
import pytest
import torch

from glocal.data import ArraySource, ConcatSource, PartsWorld
from glocal.errors import UsageError

COLOR = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)


def pixels(source, i):
    return np.asarray(source.open(i).decode())


def test_numpy_and_torch_layouts_are_the_same_images():
    for images in (COLOR, torch.from_numpy(COLOR).permute(0, 3, 1, 2)):
        source = ArraySource(images)
        assert source.open(1).size == (5, 4)
        assert np.array_equal(pixels(source, 1), COLOR[1])
    for images in (
        COLOR[..., 0],
        COLOR[..., :1],
        torch.from_numpy(COLOR[..., 0]),
        torch.from_numpy(COLOR[..., 0])[:, None],
    ):
        assert np.array_equal(pixels(ArraySource(images), 1), COLOR[1, ..., :1].repeat(3, -1))


def test_labels():
    source = ArraySource(COLOR, torch.tensor([2, 0]))
    assert source.classes == ["0", "1", "2"]
    assert source.labels.tolist() == [2, 0]
    assert ArraySource(COLOR, [1, 0], classes=["cat", "dog"]).classes == ["cat", "dog"]


@pytest.mark.parametrize(
    "images",
    [COLOR.astype(np.float32), COLOR[0, 0], COLOR.transpose(0, 3, 1, 2), COLOR[:0], np.zeros((2, 3, 3, 4), np.uint8)],
)
def test_what_is_no_array_of_images(images):
    with pytest.raises(UsageError):
        ArraySource(images)


@pytest.mark.parametrize("labels", [[0], [0, -1], [[0, 1]], [0.5, 1]])
def test_what_are_no_labels(labels):
    with pytest.raises(UsageError, match="labels"):
        ArraySource(COLOR, labels)


def test_concatenation_finds_every_image():
    parts = [ArraySource(COLOR[:1], name="one"), ArraySource(COLOR, name="two"), ArraySource(COLOR[1:], name="three")]
    source = ConcatSource(parts)
    assert len(source) == 4
    assert source.name == "one + two + three"
    assert [source.key(i) for i in range(4)] == ["one/0", "two/0", "two/1", "three/0"]
    for i, k in enumerate((0, 0, 1, 1)):
        assert np.array_equal(pixels(source, i), COLOR[k])
    for i in (-1, 4):
        with pytest.raises(IndexError):
            source.open(i)


def test_concatenation_keeps_what_agrees():
    same = ConcatSource([ArraySource(COLOR, [0, 1]), ArraySource(COLOR, [1, 0])])
    assert same.labels.tolist() == [0, 1, 1, 0]
    for other in (ArraySource(COLOR), ArraySource(COLOR, [0, 2]), ArraySource(COLOR, [0, 1], classes=["x", "y"])):
        mixed = ConcatSource([ArraySource(COLOR, [0, 1]), other])
        assert mixed.labels is None
        assert mixed.classes is None
    worlds = [PartsWorld(2, 32, seed=seed) for seed in (0, 1)]
    joined = ConcatSource(worlds)
    assert joined.has_masks
    assert np.array_equal(joined.mask(3), worlds[1].mask(1))
    assert not ConcatSource([worlds[0], ArraySource(COLOR)]).has_masks
    with pytest.raises(UsageError, match="no data"):
        ConcatSource([])
