"""The loader alone: processor time per photograph, from JPEG to two normalised views, on one core and no GPU.

Processor time, not wall-clock: it is what the loader takes away from training on a machine whose cores are all busy.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.cases import Case
from benchmarks.measure import Size, ratio, summary
from benchmarks.photos import photos
from glocal.data import open_source
from glocal.data.source import ImageSource
from glocal.views import Appearance, Recipe, ViewLoader, two_views
from glocal.views.cache import PixelCache

BATCH = 32
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def measure(size: Size, folder: Path | None = None) -> dict[str, Any]:
    """Milliseconds of processor time per photograph for each stage, Glocal and lightly in turn."""
    full = size == "full"
    folder = folder or photos()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rows = [measure_size(side, folder, full) for side in ((96, 224) if full else (32,))]
    finally:
        torch.set_num_threads(threads)
    return {"batch": BATCH if full else 4, "cases": rows}


def measure_size(side: int, folder: Path, full: bool) -> dict[str, Any]:
    """All arms at one size of view."""
    batch = BATCH if full else 4
    arms = {
        "decode, full size": decoding(folder, batch, 1.0),
        "glocal, views": loading(folder, side, batch),
        "glocal, views and appearance": loading(folder, side, batch, appearance=True),
        "glocal, cached views and appearance": loading(folder, side, batch, appearance=True, cache=True),
        "lightly": lightly(folder, side, batch),
    }
    times: dict[str, list[float]] = {name: [] for name in arms}
    for steps in arms.values():
        next(steps)
    for turn in range(7 if full else 1):
        for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
            times[name].append(core_ms(lambda name=name: next(arms[name])) / batch)
    ours = [name for name in arms if name.startswith("glocal") and "appearance" in name]
    return {
        "image_size": side,
        "milliseconds_per_image": {name: summary(each) for name, each in times.items()},
        "appearance_alone": statistics.median(times["glocal, views and appearance"])
        - statistics.median(times["glocal, views"]),
        "times_lightly": {name: ratio(times["lightly"], times[name]) for name in ours},
    }


def core_ms(work: Callable[[], Any]) -> float:
    """Milliseconds of processor time of this process."""
    started = time.process_time()
    work()
    return 1000 * (time.process_time() - started)


def decoding(folder: Path, batch: int, scale: float) -> Iterator[None]:
    """Endless decodes of a batch of photographs."""
    source = open_source(str(folder))
    numbers = itertools.cycle(range(len(source)))
    while True:
        for _ in range(batch):
            source.open(next(numbers)).decode(scale)
        yield


def loading(folder: Path, side: int, batch: int, *, appearance: bool = False, cache: bool = False) -> Iterator[Any]:
    """Endless batches of Glocal's, made in this process."""
    recipe = two_views(side)
    source = open_source(str(folder))
    pixels = filled_cache(source, recipe) if cache else None
    loader = ViewLoader(source, recipe, batch_size=batch, seed=0, cache=pixels)
    finish = Appearance(recipe, *IMAGENET, seed=0)
    for epoch in itertools.count():
        for views in loader.epoch(epoch):
            yield finish(views, epoch) if appearance else views


def filled_cache(source: ImageSource, recipe: Recipe) -> PixelCache:
    """A cache that an earlier epoch has filled."""
    cache = PixelCache(source, recipe.views)
    for i in range(len(source)):
        cache.read(i)
    return cache


def lightly(folder: Path, side: int, batch: int) -> Iterator[Any]:
    """Endless batches of lightly's VICReg views, made in this process."""
    from benchmarks import peers  # not on every machine that measures ours

    return peers.batches(Case("vicreg", "none", side, batch, 1), folder, workers=0)
