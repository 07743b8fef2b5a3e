"""Random walks over the frames of a video, how right they are, tables of marks, and the command."""

from __future__ import annotations

import csv
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import glocal
from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.errors import UsageError
from glocal.pipeline import phases
from glocal.sequences import from_marks, from_prior, phase_scores, segments, similarity
from glocal.sequences.marks import read_marks
from processes import Command


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def dense(weights):
    w = weights.toarray()
    return np.diag(w.sum(1)) - w


@pytest.mark.parametrize(("window", "neighbours"), [(1, 0), (3, 0), (2, 4)])
def test_links_are_those_of_the_definition(window, neighbours):
    features = draw(30, 5)
    distance = np.linalg.norm(features[:, None] - features[None], axis=2)
    linked = np.abs(np.subtract.outer(np.arange(30), np.arange(30))) <= window
    for i in range(30 if neighbours else 0):
        near = np.argsort(np.where(np.arange(30) == i, np.inf, distance[i]))[:neighbours]
        linked[i, near] = linked[near, i] = True
    np.fill_diagonal(linked, False)
    scale = np.median(distance[np.triu_indices(30, 1)])
    expected = np.where(linked, np.maximum(np.exp(-2 * distance**2 / scale**2), 1e-9), 0)
    found = similarity(features, beta=2, window=window, neighbours=neighbours).toarray()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize(("window", "neighbours"), [(1, 0), (2, 3)])
def test_probabilities_are_those_of_meeting_a_mark_first(window, neighbours):
    """Against the walk itself: the transition matrix, marks absorbing, to a high power."""
    weights = similarity(draw(40, 4), beta=1, window=window, neighbours=neighbours)
    frames, phases = np.array([3, 11, 25, 38]), np.array([0, 1, 0, 2])
    step = weights.toarray() / weights.toarray().sum(1, keepdims=True)
    step[frames] = np.eye(40)[frames]
    for _ in range(24):
        step = step @ step
    met = step[:, frames] @ np.eye(3)[phases]
    found = from_marks(weights, frames, phases)
    np.testing.assert_allclose(found, met, atol=1e-5)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    assert found.min() >= -1e-12
    assert from_marks(weights, np.arange(40), np.arange(40) % 3).argmax(1).tolist() == (np.arange(40) % 3).tolist()


def test_probabilities_are_scikit_images_random_walker():
    segmentation = pytest.importorskip("skimage.segmentation")
    x, frames, phases = draw(60).cumsum(), np.array([3, 20, 33, 50]), np.array([0, 1, 2, 0])
    scale = np.median(np.abs(np.subtract.outer(x, x))[np.triu_indices(60, 1)]) ** 2
    labels = np.zeros((60, 1), int)
    labels[frames, 0] = phases + 1
    theirs = segmentation.random_walker(
        x[:, None], labels, beta=3 * 10 * x.std() / scale, mode="bf", return_full_prob=True
    )
    ours = from_marks(similarity(x[:, None], beta=3), frames, phases)
    np.testing.assert_allclose(ours, theirs[..., 0].T, atol=1e-5)


def test_a_prior_is_smoothed_along_links_and_trusted_without_bound_it_stays():
    weights, prior = similarity(draw(25, 3), beta=1, window=2), np.random.default_rng(1).dirichlet(np.ones(4), 25)
    expected = np.linalg.solve(dense(weights) + 0.3 * np.eye(25), 0.3 * prior)
    np.testing.assert_allclose(from_prior(weights, prior, trust=0.3), expected, rtol=1e-8)
    np.testing.assert_allclose(from_prior(weights, prior, trust=1e9), prior, atol=1e-6)
    each = np.linspace(0.1, 5, 25)
    expected = np.linalg.solve(dense(weights) + np.diag(each), each[:, None] * prior)
    np.testing.assert_allclose(from_prior(weights, prior, trust=each), expected, rtol=1e-8)


def test_borders_lie_where_the_picture_changes():
    truth = np.repeat([0, 1, 2, 0], [30, 50, 20, 40])
    features = 4 * np.eye(3)[truth] + 0.3 * draw(140, 3)
    frames = np.array([2, 75, 82, 138])  # not in the middle
    found = from_marks(similarity(features), frames, truth[frames]).argmax(1)
    assert (found != truth).sum() <= 2
    nearest = truth[frames][np.abs(np.arange(140)[:, None] - frames).argmin(1)]
    assert (nearest != truth).sum() > 20


def test_most_frames_may_be_the_same():
    """Slides, a black screen: the border lies where the picture changes, whatever the unit of the features."""
    features = np.zeros((100, 4))
    features[80:] = 0.01 + 0.001 * draw(20, 4)
    marks = np.array([10, 95]), np.array([0, 1])
    for unit in (1, 1000):
        found = from_marks(similarity(unit * features), *marks).argmax(1)
        assert np.flatnonzero(found).min() == 80


def test_two_hours_take_seconds_of_a_processor_and_the_sparse_solve_a_twentieth_of_the_dense():
    truth = np.arange(7200) * 9 // 7200
    features = (draw(9, 384)[truth] + draw(7200, 384, seed=1)).astype(np.float32)
    frames = np.arange(9) * 800 + 400
    started = time.process_time()
    weights = similarity(features)
    middle = time.process_time()
    found = from_marks(weights, frames, truth[frames])
    ended = time.process_time()
    assert ended - started < 10
    rest = np.setdiff1d(np.arange(2000), frames)  # a system of a quarter of the size takes a 64th, at least
    laplacian = dense(weights[:2000, :2000])
    at = time.process_time()
    np.linalg.solve(laplacian[np.ix_(rest, rest)], np.ones((len(rest), 9)))
    assert 20 * (ended - middle) < 40 * (time.process_time() - at)
    assert found.shape == (7200, 9)


def test_scores_by_hand():
    truth = np.repeat([0, 1, 2], [4, 4, 2])
    assert set(phase_scores(truth, truth).values()) == {1.0}
    found = np.array([0, 0, 1, 0, 1, 1, 1, 2, 2, 2])
    assert segments(found) == [(0, 0, 2), (1, 2, 3), (0, 3, 4), (1, 4, 7), (2, 7, 10)]
    scores = phase_scores(found, truth)
    assert scores["accuracy"] == pytest.approx(0.8)
    assert scores["edit"] == pytest.approx(1 - 2 / 5)
    assert scores["macro_f1"] == pytest.approx(np.mean([2 * 3 / 7, 2 * 3 / 8, 2 * 2 / 5]))
    assert scores["f1@10"] == pytest.approx(2 * 3 / 8)
    assert scores["f1@50"] == pytest.approx(2 * 3 / 8)  # overlaps of 2/4, 3/4, 2/3
    assert phase_scores(np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]))["f1@50"] == 0.0


@pytest.fixture
def video(tmp_path):
    """Ten frames: six red, then four blue."""
    folder = tmp_path / "video"
    folder.mkdir()
    for k in range(10):
        color = (200, 20, 5 * k) if k < 6 else (20, 5 * k, 200)
        Image.new("RGB", (32, 32), color).save(folder / f"{k:03d}.png")
    return folder


def table(tmp_path, text):
    (tmp_path / "marks.csv").write_text(text)
    return str(tmp_path / "marks.csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("frame,phase\n10,a", "line 2: frame '10' is not in the video, of 10 frames, 0 to 9 s"),
        ("time,phase\n1,a\n30,b", "line 3: time '30' is not in the video"),
        ("time,phase\n-1,a\n3,b", "line 2: time '-1' is not in the video"),
        ("time,phase\n1,a\n10,b", "line 3: time '10' is not in the video"),
        ("frame,phase\n1.5,a", "line 2: frame '1.5' is not in the video"),
        ("frame,phase\n1,a\n001.png,b", "the frame 001.png is both 'a' and 'b'"),
        ("frame,phase\n1,a", "never marks the phase 'b'"),
        ("frame,phase\n1,a\n2,c", "no phase is called 'c'"),
        ("frame,phase\n1,", "marks no frame|never marks"),
        ("a,b\n1,2", "its first line is to be frame,phase or time,phase"),
    ],
)
def test_marks_that_do_not_fit_are_refused(video, tmp_path, text, says):
    with pytest.raises(UsageError, match=says):
        read_marks(table(tmp_path, text), open_source(f"clips:{video}"), ["a", "b"])


def test_frames_may_be_numbers_as_a_spreadsheet_writes_them(video, tmp_path):
    found = read_marks(table(tmp_path, "frame,phase\n5.0,a\n007.png,b\n9,a"), open_source(f"clips:{video}"))
    assert found.frames.tolist() == [5, 7, 9]
    assert [found.names[k] for k in found.phases] == ["a", "b", "a"]


def test_frames_that_cannot_be_read_have_the_features_of_the_nearest_one(video, monkeypatch):
    there = torch.tensor([1, 2, 5, 8])
    bank = SimpleNamespace(index=there, pooled=there[:, None].float())
    monkeypatch.setattr(phases, "extract", lambda *args, **options: bank)
    found = phases.embedded(build_backbone("test_resnet"), open_source(f"clips:{video}"), None, workers=0)
    assert found[:, 0].tolist() == [1, 1, 2, 2, 5, 5, 5, 8, 8, 8]


def test_the_command_writes_what_can_be_corrected_and_given_back(video, tmp_path, capsys):
    marks, out = table(tmp_path, "time,phase\n1.2,cut\n008.png,sew".replace("008.png", "8")), tmp_path / "out"
    np.save(tmp_path / "scores.npy", np.eye(2)[(np.arange(10) >= 6).astype(int)])
    given = {"features": str(tmp_path / "scores.npy"), "out": str(out)}
    found = glocal.phases("none", str(video), marks=marks, **given)
    assert found["stretches"] == [("cut", 0, 6), ("sew", 6, 10)]
    page = (out / "timeline.html").read_text()
    assert page.count("<figure") == 2
    assert page.count("data:image") == 2
    rows = list(csv.DictReader((out / "phases.csv").open()))
    assert [row["mark"] for row in rows] == ["", "cut", *[""] * 6, "sew", ""]
    rows[5]["mark"] = rows[6]["mark"] = "<b>pin"
    with (out / "corrected.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    truth = table(
        tmp_path,
        "frame,phase\n" + "\n".join(f"{k},{'cut' if k < 5 else '<b>pin' if k < 7 else 'sew'}" for k in range(10)),
    )
    found = glocal.phases("none", str(video), marks=str(out / "corrected.csv"), truth=truth, **given)
    assert [name for name, *_ in found["stretches"]] == ["cut", "<b>pin", "sew"]
    assert found["edit"] == 1.0
    assert "<b>" not in (out / "timeline.html").read_text()
    corrected = (out / "phases.csv").read_text()
    assert corrected.count(",<b>pin\n") == 2
    assert not (out / "phases-1.csv").exists(), "all its marks are in the new one"
    glocal.phases("none", str(video), marks=table(tmp_path, "time,phase\n1.2,cut\n8,sew"), **given)
    assert (out / "phases-1.csv").read_text() == corrected, "corrections are not lost"
    assert f"is now {out / 'phases-1.csv'}" in capsys.readouterr().err


def test_a_few_labelled_videos_and_an_encoder(video, tmp_path):
    lines = ["path,video,phase"]
    for name in "uv":
        for k in range(6):
            color = (190, 30, 9 * k) if k < 3 else (30, 9 * k, 190)
            Image.new("RGB", (32, 32), color).save(tmp_path / f"{name}{k}.png")
            lines.append(f"{name}{k}.png,{name},{'red' if k < 3 else 'blue'}")
    (tmp_path / "few.csv").write_text("\n".join(lines))
    found = glocal.phases(
        "timm:test_resnet:random", str(video), few=str(tmp_path / "few.csv"), out=str(tmp_path / "out"), image_size=32
    )
    assert found["stretches"] == [("red", 0, 6), ("blue", 6, 10)]
    for line in lines[1:]:  # a folder for each video: their names are no phases
        name, video_, _ = line.split(",")
        (tmp_path / "few" / video_).mkdir(parents=True, exist_ok=True)
        (tmp_path / name).rename(tmp_path / "few" / video_ / name)
    groups = [f"{line.split(',')[1]}/{line}" for line in lines[1:]]
    (tmp_path / "few" / "groups.csv").write_text("\n".join(["image,video,phase", *groups]))
    again = glocal.phases(
        "timm:test_resnet:random", str(video), few=str(tmp_path / "few"), out=str(tmp_path / "o"), image_size=32
    )
    assert again == found


def test_what_does_not_serve_is_one_line(video, tmp_path):
    marks = table(tmp_path, "frame,phase\n1,a\n8,b")
    np.save(tmp_path / "short.npy", np.zeros((9, 2)))
    film = Command(
        "phases", "none", video, "--marks", marks, "--features", tmp_path / "short.npy", "--out", tmp_path / "o"
    )
    _, error = film.communicate()
    assert film.returncode == 2
    assert error == f"glocal: --features {tmp_path / 'short.npy'} has 9 rows, the video 10 frames\n"
    refused = {
        "say what is known": {},
        "leave out --features": {"few": str(video), "features": "x.npy"},
        "is no array": {"marks": marks, "features": marks},
        "leave out --names": {"few": str(video), "names": ["a", "b"]},
    }
    for says, options in refused.items():
        with pytest.raises(UsageError, match=says):
            glocal.phases("none", str(video), out=str(tmp_path / "o"), **options)
    for name in "xxyy":
        (tmp_path / "two" / name).mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "two" / name / f"{len(list(tmp_path.glob('two/*/*')))}.png")
    with pytest.raises(UsageError, match=r"holds 2 videos"):
        glocal.phases("none", str(tmp_path / "two"), marks=marks, out=str(tmp_path / "o"))
    with pytest.raises(UsageError, match="not all frames have phases"):
        glocal.phases("timm:test_resnet:random", str(video), few=str(tmp_path / "two"), out=str(tmp_path / "o"))
