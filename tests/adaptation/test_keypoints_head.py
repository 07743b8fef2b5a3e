"""The head that finds keypoints: what it is told, how it learns, and what it says and draws."""

import csv
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tuned import network

import glocal
from glocal.adaptation.finetune import FineTuning
from glocal.adaptation.keypoints import Locate
from glocal.data import ArraySource, Keypoints, open_source
from glocal.errors import UsageError
from glocal.evaluation.keypoints import count_right, pck
from glocal.evaluation.segment import looks_of
from glocal.features import Features
from glocal.run import Run
from glocal.views import Batch, View, grid_centers

NAMES = ["l_hand", "neck", "r_hand"]


def people(images=1, size=(40, 80)):
    """Hands at the sides, the neck above; of the first image the right hand is not known."""
    source = ArraySource(np.zeros((images, *size, 3), np.uint8))
    points = np.tile(np.float32([[10, 30, 1], [40, 10, 1], [70, 30, 1]]), (images, 1, 1))
    points[0, 2, 2] = 0
    source.keypoints = Keypoints(NAMES, points)
    return source


def features(maps):
    tokens = maps.flatten(2).transpose(1, 2)
    return Features(tokens.mean(1), tokens, torch.empty(0), tuple(maps.shape[2:]))


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def test_joints_follow_the_crop_and_change_sides_in_its_mirror():
    known = Locate.read(people(2))
    batch = Batch([], torch.tensor([1, 1, 0]))
    plain = [[1.0, 0, 20], [0, 1.0, 0]]  # 40 by 40 pixels from x = 20 on
    mirrored = [[-1.0, 0, 60], [0, 1.0, 0]]
    batch.views = [View(torch.zeros(3, 3, 40, 40), torch.tensor([plain, mirrored, [[2.0, 0, 0], [0, 1.0, 0]]]))]
    target = known.target(batch)
    np.testing.assert_allclose(target[0, 1], [0.5, 0.25, 1])
    assert target[0, :, 2].tolist() == [0, 1, 0], "the hands are outside"
    np.testing.assert_allclose(target[1, 0, :2], [(60 - 70) / 40, 0.75], atol=1e-6)
    np.testing.assert_allclose(target[2], [[0.125, 0.75, 1], [0.5, 0.25, 1], [0.875, 0.75, 0]])
    wide = [[-2.0, 0, 80], [0, 1.0, 0]]
    batch.views = [View(torch.zeros(1, 3, 40, 40), torch.tensor([wide]))]
    batch.index = torch.tensor([0])
    target = known.target(batch)[0]
    np.testing.assert_allclose(target[2], [0.875, 0.75, 1], err_msg="the left hand, which a mirror shows as the right")
    assert target[0, 2] == 0, "the right hand, of which nothing is known"


def test_first_the_detector_learns_then_the_spatial_model_then_both():
    head = Locate(6, NAMES).train()
    x, target = features(drawn(2, 6, 8, 8)), torch.tensor([[0.4, 0.6, 1.0]] * 3).expand(2, 3, 3)
    looks = looks_of(grid_centers(8, 8, 64, 64), 64)
    for progress, moves in ((0.1, "detector"), (0.4, "spatial"), (0.9, "both")):
        head.after_step(progress)
        head.zero_grad()
        each, which = head.losses(head(x), target, looks)
        assert which.tolist() == [0, 1, 2] * 2
        each.mean().backward()
        for part in ("detector", "spatial"):
            there = [p.grad is not None and bool(p.grad.any()) for p in getattr(head, part).parameters()]
            assert all(there) == (moves in (part, "both")), (progress, part)
            assert any(there) == all(there)
            assert all(p.grad is not None for p in getattr(head, part).parameters()), "or other processes would wait"
    joint = head(x)
    torch.testing.assert_close(head.eval()(x), joint)


def test_the_loss_is_the_cross_entropy_of_known_joints():
    head, looks = Locate(4, NAMES), looks_of(grid_centers(5, 5, 40, 40), 40)
    logits = drawn(1, 3, 5, 5).double()
    target = torch.tensor([[[0.3, 0.5, 1], [0.1, 0.1, 0], [0.7, 0.9, 1]]], dtype=torch.float64)
    each, which = head.losses(logits, target, looks)
    assert which.tolist() == [0, 2]
    at = (np.arange(5) + 0.5) / 5
    for found, j in zip(each, which, strict=True):
        x, y = target[0, j, :2].numpy()
        heat = np.exp(-0.5 * (((at[None] - x) ** 2 + (at[:, None] - y) ** 2) / (1.5 / 5) ** 2))
        shares = logits[0, j].flatten().log_softmax(0).view(5, 5).numpy()
        assert float(found) == pytest.approx(-(heat / heat.sum() * shares).sum(), abs=1e-5)


def test_places_are_pixels_of_the_photograph():
    head, looks = Locate(4, NAMES), looks_of(grid_centers(8, 8, 64, 64), 64)
    logits = torch.zeros(3, 8, 8)
    for j, (row, column) in enumerate(((2, 6), (0, 0), (7, 3))):
        logits[j, row, column] = 30
    answer = head.answer(logits, (160, 80), looks)
    np.testing.assert_allclose(answer, [[130, 25, 1], [10, 5, 1], [70, 75, 1]], atol=0.1)


def test_limbs_join_what_moves_together():
    """Hand and elbow are close to rigid, elbow and shoulder too; the hand moves most against the shoulder."""
    draw = np.random.default_rng(0)
    offset = np.array([10, 5])
    shoulder = draw.uniform(20, 60, (40, 2))
    elbow = shoulder + offset + draw.normal(0, 1, (40, 2))
    hand = elbow + offset + draw.normal(0, 1, (40, 2))
    source = ArraySource(np.zeros((40, 80, 80, 3), np.uint8))
    points = np.stack([hand, shoulder, elbow], 1)
    joints = np.dstack([points, np.ones((40, 3))]).astype(np.float32)
    source.keypoints = Keypoints(["hand", "shoulder", "elbow"], joints)
    head = Locate(4, source.keypoints.names)
    head.begin(drawn(40, 4), source, torch.arange(40))
    assert {frozenset(limb) for limb in head.limbs.tolist()} == {frozenset({0, 2}), frozenset({1, 2})}


def test_its_score_is_that_of_its_answers(locator, world):
    test = open_source(world, split="val")
    assert Run(locator).encoder()["config"]["earlier"], "it looks at the map before the last halving"
    said = glocal.predict(str(locator), world, split="val")
    right = count_right(np.stack(said.answers)[..., :2], test.keypoints, np.full((len(test), 2), 64))
    assert Run(locator).scores()["keypoints"]["pck"] == pytest.approx(pck(right.sum(0)))
    losses = [line["loss"] for line in Run(locator).metrics() if "loss" in line]
    assert losses[-1] < losses[0] - 0.2, "a cross-entropy, of which the uniform map has its most"


def test_the_table_is_data_and_the_photographs_are_drawn_on(locator, world, tmp_path, capsys):
    folder = str(shutil.copytree(f"{world}/val/images", tmp_path / "images"))
    out = glocal.predict(str(locator), folder, out=str(tmp_path / "joints.csv"), draw=str(tmp_path / "drawn"))
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert len(rows) == 32
    said = glocal.predict(str(locator), folder)
    assert said.answers[5].shape == (6, 3)
    names = said.classes
    assert float(rows[5][f"{names[1]}.y"]) == pytest.approx(said.answers[5][1, 1], rel=1e-4)
    before = Image.open(f"{folder}/{rows[5]['image_path']}").convert("RGB")
    after = Image.open((tmp_path / "drawn" / rows[5]["image_path"]).with_suffix(".png"))
    assert after.size == before.size
    x, y = said.answers[5][0, :2].astype(int).clip(0, 63)
    assert after.getpixel((int(x), int(y))) != before.getpixel((int(x), int(y)))
    out.rename(f"{folder}/joints.csv")
    again = open_source(f"{folder}/joints.csv").keypoints
    assert again.names == names
    np.testing.assert_allclose(again.points[5, :, :2], said.answers[5][:, :2], rtol=1e-3, atol=1e-3)
    with pytest.raises(UsageError, match=r"in \.csv"):
        glocal.predict(str(locator), folder, out=str(tmp_path / "joints"))
    capsys.readouterr()
    glocal.predict(str(locator), world, split="val")
    assert f"pck {Run(locator).scores()['keypoints']['pck']:.3f} on the 32 whose answers" in capsys.readouterr().err


def test_another_skeleton_is_refused():
    with pytest.raises(UsageError, match="no keypoint 'tail'; those to learn are tail, neck"):
        Locate.read(people(), ["tail", "neck"])


def test_where_names_tell_no_sides_nothing_is_mirrored():
    assert Locate(4, ["l_eye", "nose", "r_eye"]).flip == Locate(4, ["nose"]).flip == 0.5
    assert Locate(4, ["0", "1", "2"]).flip == 0.0
    method = FineTuning(network(), Locate(8, ["0", "1"]), image_size=32)
    assert [crop.flip for crop in method.recipe.views] == [0.0]
