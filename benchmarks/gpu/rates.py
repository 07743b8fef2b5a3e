"""Images per second: what the GPU could do, and what is left of it with views, with JPEG files, compiled."""

from __future__ import annotations

import gc
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

import glocal
from benchmarks.cases import Case
from benchmarks.gpu.notes import Notes
from benchmarks.measure import DEVICE
from benchmarks.pretrain import BF16, Stopwatch, pretrain_until, resident, run_cached
from glocal.backbones import build_backbone
from glocal.training import this_machine
from glocal.views import Appearance, Batch, View, two_views

CASES = {
    "resnet50": Case("vicreg", "resnet50", 224, 256, 7, seconds=5),
    "vit": Case("vicreg", "vit_small_patch16_224", 224, 256, 14, seconds=4),
    "resnet18": Case("vicreg", "resnet18", 96, 512, 3, seconds=4),
}
TINY = {name: Case("vicreg", "test_vit" if name == "vit" else "test_resnet", 32, 8, 1, seconds=0) for name in CASES}
LEAST_VIEWS, LEAST_EFFICIENCY, LEAST_EVALUATED = 2500, 0.9, 3000
MOST_FOR_APPEARANCE = 0.06


def measure(notes: Notes) -> None:
    """All arms, the quick ones first: compiling takes what time is left."""
    cases, photos = CASES if notes.cuda else TINY, notes.folder / "photos"
    ceiling: dict[str, float] = {}
    for name, case in cases.items():
        with notes.check(f"{case.name}, B {case.batch}: views on the device", needs_cuda=True) as found:
            ceiling[name] = rate(found, case)
            if name == "resnet50" and notes.cuda:
                at_least(found, LEAST_VIEWS, views_a_second=2 * ceiling[name])
    case = cases["resnet50"]
    with notes.check(f"{case.name}: and appearance, from pinned memory", needs_cuda=True) as found:
        left = rate(found, case, feed=finishing(case)) / ceiling["resnet50"]
        at_least(found, 1 - MOST_FOR_APPEARANCE if notes.cuda else 0, share_left=left)
    cores = this_machine("auto").cores
    many = min(16, cores) if notes.cuda else 0
    for workers in (16, 8, 4) if notes.cuda else (0,):
        with notes.check(f"{case.name}: Glocal's own loop from JPEG, {workers} workers", needs_cuda=True) as found:
            watch = Stopwatch(case.seconds, workers)
            with tempfile.TemporaryDirectory() as out:
                pretrain_until(watch, case, photos, Path(out, "run"), workers=workers, cache=False)
            found |= {"images_a_second": round(watch.rate(case.batch)), "cores": cores}
            efficiency = watch.rate(case.batch) / ceiling["resnet50"]
            at_least(found, LEAST_EFFICIENCY if notes.cuda and workers == 16 else 0, efficiency=efficiency)
    case = cases["resnet18"]
    with notes.check(f"{case.name}: Glocal's own loop, cached, {many} workers", needs_cuda=True) as found:
        done = run_cached(case, photos, many)
        found["images_a_second"] = round(done["rate"])
        at_least(found, 0, efficiency=done["rate"] / ceiling["resnet18"])
    with notes.check("features of a ResNet-50 at 224 px from JPEG, as embed gives them", needs_cuda=True) as found:
        at_least(found, LEAST_EVALUATED if notes.cuda else 0, images_a_second=embedded(notes, many))
    if find_spec("lightly") is None:
        notes.skip("lightly beside", "it is not installed here")
    else:
        with notes.check(f"{cases['resnet18'].name}: lightly, tuned", needs_cuda=True) as found:
            from benchmarks.pretrain import run_lightly_tuned

            found["images_a_second"] = round(run_lightly_tuned(case, photos, many)["rate"])
    for name in ("resnet18", "vit", "resnet50"):
        case = cases[name]
        if not notes.cuda:
            notes.skip(f"{case.name}: compiled", "takes minutes on a CPU")
            continue
        with notes.check(f"{case.name}, B {case.batch}: compiled, views on the device") as found:
            found["times_faster"] = round(rate(found, case, compiled=True) / ceiling[name], 3)


def rate(found: dict[str, Any], case: Case, **settings: Any) -> float:
    """Images per second of backbone, heads and optimiser; notes them, and the most memory that was held."""
    gc.collect()
    if DEVICE.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    watch, started = Stopwatch(case.seconds), time.monotonic()
    torch.backends.cudnn.benchmark = True  # as training does
    for _ in resident(case, whole=True, **settings):
        if watch():
            break
    found |= {"images_a_second": round(watch.rate(case.batch)), "precision": "bf16" if BF16 else "float32"}
    if DEVICE.type == "cuda":
        found["peak_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    found["seconds_in_all"] = round(time.monotonic() - started, 1)
    return watch.rate(case.batch)


def finishing(case: Case) -> Any:
    """What gives a step its views: uint8 pixels as the loader hands them over, uploaded and finished."""
    recipe = two_views(case.image_size)
    shape = (case.batch, case.image_size, case.image_size, 3)
    pixels = [torch.randint(0, 256, shape, dtype=torch.uint8) for _ in recipe.views]
    pixels = [each.pin_memory() if DEVICE.type == "cuda" else each for each in pixels]
    views = [View(each.permute(0, 3, 1, 2), torch.zeros(case.batch, 2, 3)) for each in pixels]
    batch, appearance = Batch(views, torch.arange(case.batch)), Appearance(recipe, (0.5,) * 3, (0.25,) * 3, seed=0)
    return lambda: appearance(batch, 0, DEVICE).views


def embedded(notes: Notes, workers: int) -> float:
    """Images per second of `glocal.embed` once it runs: of so many more images, over the time that they take more."""
    encoder = build_backbone("resnet50" if notes.cuda else "test_resnet", image_size=224 if notes.cuda else 32)
    folder, spent = str(notes.folder / "photos"), []
    few, more = (4, 20) if notes.cuda else (1, 2)
    for times in (few, more):
        started = time.monotonic()
        glocal.embed(encoder, [folder] * times, split="all", workers=workers)
        spent.append(time.monotonic() - started)
    images = len(list((notes.folder / "photos").iterdir()))
    return (more - few) * images / max(spent[1] - spent[0], 1e-9)


def at_least(found: dict[str, Any], limit: float, **value: float) -> None:
    """Note a number by its name, and refuse one below the limit."""
    ((name, number),) = value.items()
    found[name] = round(number, 3)
    if number < limit:
        raise AssertionError(f"{name} is {number:.3g}, less than {limit:g}")
