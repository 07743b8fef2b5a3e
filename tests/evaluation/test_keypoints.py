"""Keypoints: heat-maps and peaks, what counts as right, and the frozen probe."""

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.data import Keypoints
from glocal.errors import UsageError
from glocal.evaluation.evaluate import evaluate_encoder
from glocal.evaluation.keypoints import (
    count_right,
    heat_maps,
    mirrored,
    pck,
    peaks,
    sides,
    tolerances,
    torsos,
)
from glocal.evaluation.segment import looks_of
from glocal.views import grid_centers

SIDES = ["ankle", "knee", "hip", "wrist", "elbow", "shoulder"]
LSP = [*(f"r_{name}" for name in SIDES), *(f"l_{name}" for name in SIDES), "neck"]


def test_a_heat_map_peaks_where_it_was_put_also_off_a_uniform_grid():
    for shift in (0.0, -2.0):  # a padded network's cells do not look at the middles of their shares
        looks = looks_of(grid_centers(12, 16, 48, 64) + shift, 64)
        places = torch.from_numpy(np.random.default_rng(0).uniform(0.2, 0.6, (30, 2))).float()
        heat = heat_maps(places, looks)
        assert heat.shape == (30, 12, 16)
        torch.testing.assert_close(heat.sum((1, 2)), torch.ones(30))
        found, mass = peaks(heat, looks)
        assert (found - places).abs().max() < 0.6 / 16
        assert 0.2 < float(mass.mean()) < 0.7
    one = heat_maps(torch.tensor([(looks[0][5], looks[1][3])]), looks)
    assert int(one.argmax()) == 3 * 16 + 5
    assert float(one[0, 3, 7] / one[0, 3, 5]) == pytest.approx(np.exp(-0.5 * (2 / 1.5) ** 2))


def test_left_is_right_in_a_mirror():
    swapped = [LSP[j] for j in mirrored(LSP)]
    assert swapped[:3] == ["l_ankle", "l_knee", "l_hip"]
    assert swapped[-1] == "neck"
    assert mirrored(["Left Eye", "nose", "Right Eye", "tail"]).tolist() == [2, 1, 0, 3]
    assert sides(["l_hip", "right-paw", "collar", "L ear", "lip"]) == ["l", "r", "", "l", ""]
    for said in ("RShoulder Nose LShoulder", "lShoulder neck rShoulder", "Lsho thrx Rsho", "LeftEye nose RightEye",
                 "eyeL nose eyeR", "LEFT_EYE NOSE RIGHT_EYE"):  # fmt: skip
        names = said.split()
        assert mirrored(names).tolist() == [2, 1, 0], names
        assert sides(names)[1] == ""
        assert {*sides(names)} == {"l", "", "r"}
    assert mirrored(["lip", "ring", "0", "1"]).tolist() == [0, 1, 2, 3]
    assert torsos(["LShoulder", "RHip", "chin"]) == [(0, 1)]
    assert torsos(["Lsho", "Rsho", "Lhip", "Rhip"]) == [(0, 3), (1, 2)]


SIZES = np.array([[600, 500], [500, 600]])


def test_what_is_right_is_a_matter_of_the_torso():
    points = np.zeros((2, 13, 3), np.float32)
    points[..., 2] = 1
    points[0, LSP.index("l_shoulder"), :2] = 30, 40  # from the right hip at 0: 50 pixels
    points[0, LSP.index("r_shoulder"), 2] = 0
    points[1, :, 2] = 0
    points[1, 0, 2] = 1
    assert sorted(torsos(LSP)) == sorted(
        [(LSP.index("r_shoulder"), LSP.index("l_hip")), (LSP.index("l_shoulder"), LSP.index("r_hip"))]
    )
    given = Keypoints(LSP, points)
    np.testing.assert_allclose(tolerances(given, SIZES), [10, np.nan])
    found = points[..., :2].copy()
    found[0, 0] += [6, 7.9]
    found[0, 1] += [6, 8.1]
    counted = count_right(found, given, SIZES)
    assert counted[0].sum(1).tolist() == [11, 12], "one is too far off, one is not known"
    assert counted[1].sum() == 0, "of this image nobody knows how large the person is"
    assert pck(counted.sum(0)) == pytest.approx(11 / 12)


def test_without_a_torso_the_box_counts():
    points = np.array([[[10, 20, 1], [90, 40, 1], [500, 500, 0]]], np.float32)
    given = Keypoints(["nose", "tail", "paw"], points)
    np.testing.assert_allclose(tolerances(given, SIZES[:1]), [8])


def test_of_a_single_point_the_image_counts():
    given = Keypoints(["dot"], np.array([[[10, 20, 1]], [[3, 4, 0]]], np.float32))
    np.testing.assert_allclose(tolerances(given, SIZES), [60, 60])
    assert count_right(np.array([[[10.0, 80.0]], [[3.0, 4.0]]]), given, SIZES).sum(0).tolist() == [[1], [1]]


class Colours(torch.nn.Module):
    """Cells that see the mean colour of their share of the image."""

    mean, std, image_size = [0.0] * 3, [1.0] * 3, 64

    def forward(self, pixels):
        from glocal.features import Features

        dense = torch.nn.functional.avg_pool2d(pixels, 4)
        height, width = dense.shape[2:]
        places = grid_centers(height, width, *pixels.shape[2:]).flatten(0, 1)
        return Features(pixels.mean((2, 3)), dense.flatten(2).transpose(1, 2), places, (height, width))


def test_the_probe_finds_planted_points(tmp_path):
    """A red and a blue disc, anywhere: their colours tell where they are, the mean colour does not."""
    draw, points = np.random.default_rng(0), []
    (tmp_path / "images").mkdir()
    for n in range(40):
        pixels = np.zeros((48, 96, 3), np.uint8)
        points.append(places := draw.uniform([10, 10], [86, 38], (2, 2)))
        y, x = np.mgrid[:48, :96] + 0.5
        for channel, place in zip((0, 2), places, strict=True):
            pixels[(x - place[0]) ** 2 + (y - place[1]) ** 2 < 25, channel] = 255
        Image.fromarray(pixels).save(tmp_path / "images" / f"{n:02d}.png")
    np.save(tmp_path / "joints.npy", np.array(points))
    found = evaluate_encoder(Colours(), str(tmp_path), tasks=["keypoints"])["keypoints"]
    assert found["pck"] > 0.6, "a tenth of the box around both is some 4 pixels"
    assert found["pck"] > found["pck_pooled"] + 0.3
    assert found["pck_mean"] < 0.3


def test_images_that_cannot_be_counted_are_left_out(tmp_path):
    """Of every other image the torso is not known: a group of these has no score, and is no worst one."""
    draw, points = np.random.default_rng(0), np.zeros((60, 3, 3), np.float32)
    (tmp_path / "images").mkdir()
    for n in range(60):
        points[n] = [[10, 10, 1], [20, 40, n % 2], [30, 20, 1]]
        Image.fromarray(draw.integers(0, 255, (48, 48, 3)).astype(np.uint8)).save(tmp_path / "images" / f"{n:02d}.png")
    names = "l_shoulder", "r_hip", "nose"
    table = ",".join(f"{name}.{axis}" for name in names for axis in ("x", "y"))
    rows = [",".join(f"{x:g},{y:g}" if known else "," for x, y, known in image) for image in points]
    lines = [f"images/{n:02d}.png,{row},{'whole' if n % 2 else 'cut'}" for n, row in enumerate(rows)]
    (tmp_path / "list.csv").write_text("\n".join([f"path,{table},kind", *lines]))
    found = evaluate_encoder(Colours(), str(tmp_path / "list.csv"), tasks=["keypoints"])["keypoints"]
    assert found["pck_mean"] == 1.0, "they all lie alike"
    groups = found["groups"]["kind"]["groups"]
    assert [*groups] == ["whole"]
    assert "worst" not in found["groups"]["kind"]
    (tmp_path / "list.csv").write_text("\n".join([f"path,{table},kind", *lines[::2]]))
    with pytest.raises(UsageError, match="no image shows how large the person is"):
        evaluate_encoder(Colours(), str(tmp_path / "list.csv"), tasks=["keypoints"])
