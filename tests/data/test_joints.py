"""Keypoints that come with images: an array beside a folder, columns of a list."""

import json

import numpy as np
import pytest
from PIL import Image

from glocal.data import ConcatSource, Subset, describe, open_source
from glocal.errors import UsageError

POINTS = np.arange(18, dtype=np.float32).reshape(3, 2, 3)


@pytest.fixture
def people(tmp_path):
    """Three images, and two joints in each, the second of which one image does not know."""
    (tmp_path / "people" / "images").mkdir(parents=True)
    for n in range(3):
        Image.new("RGB", (40, 30), (n, 0, 0)).save(tmp_path / "people" / "images" / f"{n}.png")
    points = POINTS.copy()
    points[..., 2] = [[1, 1], [1, 0], [1, 1]]
    np.save(tmp_path / "people" / "joints.npy", points)
    (tmp_path / "people" / "joints.json").write_text(json.dumps(["neck", "l_hip"]))
    return tmp_path / "people"


def test_they_go_with_their_images(people):
    source = open_source(str(people))
    assert source.keypoints.names == ["neck", "l_hip"]
    assert "2 keypoints (neck, l_hip)" in describe(source)
    assert source.keypoints.points[:, :, 2].tolist() == [[1, 1], [1, 0], [1, 1]]
    some = Subset(source, np.array([2, 0]))
    np.testing.assert_array_equal(some.keypoints.points[..., :2], POINTS[[2, 0], :, :2])
    both = ConcatSource([some, source])
    np.testing.assert_array_equal(both.keypoints.points[2:, :, :2], POINTS[..., :2])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda folder: np.save(folder / "joints.npy", POINTS[:2]), "of 2 images, and there are 3"),
        (lambda folder: np.save(folder / "joints.npy", POINTS[..., 0]), r"cannot be read \(an array \(3, 2\)"),
        (lambda folder: (folder / "joints.npy").write_bytes(b"no array"), "cannot be read"),
        (lambda folder: (folder / "joints.json").write_text('["neck"]'), "1 names for the 2 joints"),
        (lambda folder: (folder / "joints.json").write_text("{"), "is no list"),
    ],
)
def test_what_does_not_fit_is_said_and_not_used(people, change, match):
    import re

    change(people)
    source = open_source(str(people))
    assert source.keypoints is None
    assert re.search(match, source.note)


def test_columns_of_a_list(people):
    file = people / "joints.csv"
    lines = ["image_path,neck.x,neck.y,neck.confidence,camera", "images/0.png,1.5,2,0.9,a", "images/1.png,,,0.1,b"]
    file.write_text("\n".join(lines))
    source = open_source(str(file))
    np.testing.assert_array_equal(source.keypoints.points, [[[1.5, 2, 1]], [[0, 0, 0]]])
    assert source.keypoints.names == ["neck"]
    assert source.labels is None
    assert list(source.groups) == ["camera"]
    file.write_text("\n".join([*lines, "images/2.png,far,1,,a"]))
    with pytest.raises(UsageError, match=r"line 4 has 'far' for neck.x: no number"):
        open_source(str(file))
    file.write_text(lines[0].replace("camera", "hip.x,hipp.y") + "\nimages/0.png,1.5,2,0.9,3,4")
    with pytest.raises(UsageError, match=r"a column hip.x, but no hip.y: each keypoint needs both"):
        open_source(str(file))
