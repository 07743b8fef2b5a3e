"""Videos: the loader of clips beside that of images, and the phases of two hours beside a dense solution."""

from __future__ import annotations

import itertools
import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import Size, interleaved, ratio, summary
from benchmarks.photos import photos
from glocal.data import open_source
from glocal.sequences.phases import from_marks, similarity
from glocal.views import Crop, Recipe, ViewLoader
from glocal.views.recipe import Frames

CLIP = 50
"""Photographs that a video is made of, at most."""
PHASES, WIDTH = 9, 384
"""Of the video of two hours: how many phases it has, and how wide its features are."""


def measure(size: Size, folder: Path | None = None) -> dict[str, Any]:
    """Frames per second of each loader, and seconds of each part of finding phases, in turn."""
    full = size == "full"
    return {
        "loader": measure_loader(folder or photos(), 96 if full else 16, 32 if full else 4, 7 if full else 1),
        "phases": [measure_phases(7200 if full else 90, near, 3 if full else 1) for near in (0, 10)],
    }


def measure_loader(folder: Path, side: int, frames: int, rounds: int) -> dict[str, Any]:
    """One view of each photograph: as images, and as frames of videos of which two make a sample."""
    crop, threads = Crop(side), torch.get_num_threads()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(dir=folder.parent) as place:
        as_videos(folder, Path(place))
        arms = {
            "images": batches(str(folder), Recipe((crop,)), frames),
            "clips": batches(f"clips:{place}", Recipe((crop, crop), frames=Frames(2)), frames // 2),
        }
        times = interleaved({name: partial(next, each) for name, each in arms.items()}, rounds=rounds)
    torch.set_num_threads(threads)
    return {
        "image_size": side,
        "frames": frames,
        "seconds": {name: summary(found) for name, found in times.items()},
        "of_images": ratio(times["images"], times["clips"]),
    }


def as_videos(folder: Path, place: Path) -> None:
    """The photographs once more, as numbered frames of videos."""
    source = open_source(str(folder))
    for number in range(len(source)):
        frame = place / f"video{number // CLIP}" / f"{number:06d}.jpg"
        frame.parent.mkdir(exist_ok=True)
        os.link(folder / source.key(number), frame)


def batches(data: str, recipe: Recipe, size: int) -> Iterator[Any]:
    """Endless batches, made in this process."""
    loader = ViewLoader(open_source(data), recipe, batch_size=size, seed=0)
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def measure_phases(frames: int, neighbours: int, rounds: int) -> dict[str, Any]:
    """All of it, the sparse system alone, and the same system as a full matrix; a frame of each phase is marked."""
    truth = np.arange(frames) * PHASES // frames
    draw = np.random.default_rng(0)
    features = draw.standard_normal((PHASES, WIDTH))[truth] + draw.standard_normal((frames, WIDTH))
    marks = np.searchsorted(truth, np.arange(PHASES)) + frames // PHASES // 2
    weights = similarity(features, neighbours=neighbours)
    full = np.diag(weights.sum(0)) - weights.toarray()
    rest = np.setdiff1d(np.arange(frames), marks)
    said: dict[str, np.ndarray] = {}

    def whole() -> None:
        from_marks(similarity(features, neighbours=neighbours), marks, truth[marks])

    def sparse() -> None:
        said["sparse"] = from_marks(weights, marks, truth[marks])[rest]

    def dense() -> None:
        said["dense"] = np.linalg.solve(full[np.ix_(rest, rest)], -full[np.ix_(rest, marks)])

    times = interleaved({"whole": whole, "sparse": sparse, "dense": dense}, rounds=rounds)
    return {
        "frames": frames,
        "dim": WIDTH,
        "neighbours": neighbours,
        "seconds": {name: summary(found) for name, found in times.items()},
        "times_faster": ratio(times["dense"], times["sparse"]),
        "difference": float(np.abs(said["sparse"] - said["dense"]).max()),
    }
