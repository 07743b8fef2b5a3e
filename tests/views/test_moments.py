"""Views of several moments of a clip: which frames, decoded how often, and that nothing but the seed decides."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

import glocal
from glocal.data import ClipSource, Groups, open_source
from glocal.data.images import DrawnImage
from glocal.data.source import Unreadable
from glocal.errors import UsageError
from glocal.views import Crop, Frames, Recipe, ViewLoader
from power import left_after

WHOLE = Crop(4, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, gray=0)


class Counting(ClipSource):
    """Two frames a second; frame i of the collection has the level i in a corner. It counts what is decoded."""

    def __init__(self, lengths=(5, 9, 12)):
        of = np.repeat(np.arange(len(lengths)), lengths)
        self.name, self.groups = "counting", {"video": Groups([str(k) for k in range(len(lengths))], of)}
        self.time = np.concatenate([np.arange(length) / 2 for length in lengths])
        self.extra = {"action": np.arange(len(of), dtype=np.float32)}
        self.decoded: Counter = Counter()

    def __len__(self):
        return len(self.time)

    def key(self, i):
        return str(i)

    def open(self, i):
        def draw():
            self.decoded[i] += 1
            if i == 7:
                raise Unreadable("it is the seventh")
            pixels = np.random.default_rng(i).integers(0, 256, (4, 4, 3), np.uint8)
            pixels[0, 0] = i
            return pixels

        return DrawnImage((4, 4), draw)


def levels(batch):
    """(V, B) of which frame each view is."""
    return torch.stack([view.pixels[:, 0, 0, 0] for view in batch.views]).long()


def test_windows_of_a_clip_share_no_frame():
    source = Counting((5, 6, 12))
    loader = ViewLoader(source, Recipe((WHOLE,) * 3, frames=Frames(3, stride=2)), batch_size=4, seed=0)
    batch = next(loader.epoch(0))
    assert loader.images == 4  # of 5 frames each: from 0, 5, 11 and 16
    assert sorted(batch.index.tolist()) == [0, 5, 11, 16] or 7 in [i for i, _ in batch.skipped]
    frames = levels(batch)
    assert (frames[1] - frames[0]).tolist() == [2] * 4
    assert batch.extra["action"].T.long().tolist() == frames.tolist()
    time = torch.stack([view.time for view in batch.views])
    assert (time - torch.from_numpy(source.time)[frames].float()).abs().max() == 0


def test_the_other_views_are_of_a_frame_that_is_near():
    recipe = Recipe((WHOLE,) * 4, frames=Frames(2, stride=0, jitter=1.0))
    source = Counting()
    apart = Counter()
    of = source.groups["video"].of
    for epoch in range(40):
        for batch in ViewLoader(source, recipe, batch_size=5, seed=3).epoch(epoch):
            own, near, again, other = levels(batch)
            assert torch.equal(own, batch.index)
            assert torch.equal(own, again)
            assert torch.equal(near, other)
            assert (of[own] == of[near]).all()
            apart.update((near - own).tolist())
    assert set(apart) == {-2, -1, 0, 1, 2}
    assert min(apart.values()) > 0.5 * max(apart.values())


def test_each_frame_of_a_sample_is_decoded_once():
    source = Counting((8, 9))
    loader = ViewLoader(source, Recipe((WHOLE,) * 6, frames=Frames(2, 0, 0.5)), batch_size=8, seed=0)
    batch = next(loader.epoch(0))
    wanted = sum(len(set(frames)) for frames in levels(batch).T.tolist()) + len(batch.skipped)
    assert sum(source.decoded.values()) - wanted in range(len(batch.skipped) + 1)


def test_what_cannot_be_decoded_is_named_and_replaced():
    loader = ViewLoader(Counting(), Recipe((WHOLE,) * 2, frames=Frames(2, 0, 0.5)), batch_size=26, seed=0)
    batch = next(loader.epoch(0))
    assert set(batch.skipped) == {(7, "it is the seventh")}
    assert not (levels(batch) == 7).any()


@pytest.mark.parametrize("frames", [Frames(2, 0, 1.0), Frames(2, 2)])
def test_two_processes_are_one_and_workers_do_not_matter(frames):
    recipe = Recipe((Crop(4), Crop(4)), frames=frames)
    settings = {"seed": 1, "batch_size": 4}
    one = list(ViewLoader(Counting(), recipe, **settings).epoch(2))
    settings["batch_size"] = 2
    two = [ViewLoader(Counting(), recipe, **settings, rank=rank, world_size=2, workers=rank) for rank in range(2)]
    for whole, *parts in zip(one, *(loader.epoch(2) for loader in two), strict=True):
        joined = {name: torch.cat([part.extra[name] for part in parts]) for name in whole.extra}
        assert torch.equal(joined["action"], whole.extra["action"])
        for v in range(2):
            assert torch.equal(torch.cat([part.views[v].pixels for part in parts]), whole.views[v].pixels)
            assert torch.equal(torch.cat([part.views[v].time for part in parts]), whole.views[v].time)
    for loader in two:
        loader.close()


def test_videos_too_short_for_a_sample_are_told(tmp_path):
    for name, frames in (("a", 8), ("b", 9), ("c", 7)):
        (tmp_path / name).mkdir()
        for k in range(frames):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{k}.png")
    source = open_source(f"clips:{tmp_path}")
    loader = ViewLoader(source, Recipe((WHOLE,) * 8, frames=Frames(8)), batch_size=2, seed=0)
    assert loader.notes == ["1 of 3 videos have fewer than the 8 frames of a sample: left out"]
    assert ViewLoader(source, Recipe((WHOLE,) * 7, frames=Frames(7)), batch_size=2, seed=0).notes == []
    with pytest.raises(UsageError, match="has 1 sample of 9 frames, fewer than one batch of 2"):
        ViewLoader(source, Recipe((WHOLE,) * 9, frames=Frames(9)), batch_size=2, seed=0)


def test_clips_too_short_and_collections_without_clips_are_refused():
    with pytest.raises(UsageError, match="no video has the 13 frames of a sample, the longest has 12"):
        ViewLoader(Counting(), Recipe((WHOLE,), frames=Frames(13)), batch_size=2, seed=0)
    with pytest.raises(UsageError, match="has no clips: give --fps"):
        glocal.pretrain(
            np.zeros((32, 8, 8, 3), np.uint8), method="msn", max_gap="1s", image_size=32, backbone="test_vit"
        )


@pytest.mark.parametrize("method", ["msn", "dino", "vicreg"])
def test_a_run_resumes_to_the_bit(method, tmp_path, monkeypatch):
    heads = {"outputs": 16, "hidden": 16, "bottleneck": 8} if method == "dino" else {"projector": (32, 32)}
    heads |= {} if method == "vicreg" else {"small_crops": 0}
    settings = {"backbone": "test_vit", "image_size": 16, "batch_size": 8, "epochs": 2, "workers": 0, "max_gap": "1s"}
    settings |= {"report": False, "quiet": True, **heads}
    with left_after(2, tmp_path / "stopped", monkeypatch):
        whole = glocal.pretrain(Counting(), method=method, out=str(tmp_path / "whole"), checkpoint_steps=2, **settings)
    glocal.pretrain(Counting(), resume=str(tmp_path / "stopped"), quiet=True)
    states = [
        torch.load(run / "checkpoints" / "last.pt", weights_only=True)["method"]
        for run in (whole, tmp_path / "stopped")
    ]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
