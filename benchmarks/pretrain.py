"""End-to-end pretraining from JPEG files, in images per second: Glocal, lightly, and what the hardware could do.

Glocal's rate is that of its real loop: `glocal.pretrain`, stopped from inside. The *efficiency* is that rate over the
rate of backbone, heads and optimiser alone, fed with random input that lies on the device, at the same precision,
memory format, batch and widths.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import glocal
from benchmarks.cases import CASES, Case
from benchmarks.loader import filled_cache
from benchmarks.measure import DEVICE, Size, isolated, ratio, summary
from benchmarks.photos import photos
from glocal.backbones import Backbone, build_backbone
from glocal.data import open_source
from glocal.methods import encode, method_class
from glocal.pipeline.launch import keep_freed_memory
from glocal.run import Run
from glocal.training import this_machine
from glocal.training.optimizers import build_optimizer
from glocal.views import View, two_views

BF16 = this_machine("auto").precision == "bf16-mixed"
"""What `glocal.pretrain` decides for this machine; both libraries train so."""
PRECISION: Any = "bf16-mixed" if BF16 else "32-true"


class Enough(Exception):
    """Ends a training that has been timed."""


class Stopwatch:
    """Told of the end of every step; says when there have been enough.

    Args:
        limit: seconds to measure, after the warm-up, and at least two steps, or two of each worker.
        workers: of the loader; the clock starts when the two batches that each made in advance are used up.
    """

    def __init__(self, limit: float, workers: int = 0) -> None:
        self.limit = limit
        self.warm_up = 2 + 2 * workers
        self.least = max(2, 2 * workers)
        self.marks: list[float] = []

    def __call__(self) -> bool:
        if DEVICE.type == "cuda" and len(self.marks) == self.warm_up - 1:
            torch.cuda.synchronize()  # steps are only queued: wait where the clock starts
        self.marks.append(time.perf_counter())
        measured = self.marks[self.warm_up - 1 :]
        if len(measured) < 1 + self.least or measured[-1] - measured[0] < self.limit:
            return False
        if DEVICE.type == "cuda":
            torch.cuda.synchronize()
            self.marks[-1] = time.perf_counter()
        return True

    def rate(self, batch: int) -> float:
        """Images per second after the warm-up."""
        measured = self.marks[self.warm_up - 1 :]
        return batch * (len(measured) - 1) / (measured[-1] - measured[0])


def run_glocal(case: Case, folder: Path, workers: int, cache: bool = False, compile: bool = False) -> dict[str, float]:
    """`glocal.pretrain`, left from its own loop; the rate, and what its log said of the last ten steps."""
    watch = Stopwatch(case.seconds, workers)
    with tempfile.TemporaryDirectory() as out:
        pretrain_until(watch, case, folder, Path(out) / "run", workers=workers, cache=cache, compile=compile)
        logged = [line["images_per_second"] for line in Run(Path(out) / "run").metrics() if line["step"] >= 20]
    return {"rate": watch.rate(case.batch), **({"logged": logged[-1]} if logged else {})}


def pretrain_until(enough: Callable[[], bool], case: Case, folder: Path, run: Path, **settings: Any) -> None:
    """`glocal.pretrain` on a case, asked after every step whether there have been enough."""
    cls = method_class(case.method)
    own = cls.__dict__.get("after_step")

    def after_step(self: Any, progress: float) -> None:
        if own is not None:
            own(self, progress)
        if enough():
            raise Enough

    cls.after_step = after_step
    try:
        glocal.pretrain(
            str(folder), method=case.method, backbone=case.backbone, image_size=case.image_size, out=str(run),
            output_stride=case.stride, batch_size=case.batch, epochs=10_000, precision=PRECISION,
            monitor_every=10_000, report=False, quiet=True, **case.options, **{"compile": False, **settings},
        )  # fmt: skip
    except Enough:
        pass
    finally:
        del cls.after_step
        if own is not None:
            cls.after_step = own


def run_cached(case: Case, folder: Path, workers: int) -> dict[str, float]:
    """The same, reading photographs that an earlier epoch has decoded and shrunk."""
    filled_cache(open_source(str(folder)), two_views(case.image_size))
    return run_glocal(case, folder, workers, cache=True)


def run_compiled(case: Case, folder: Path, workers: int) -> dict[str, float]:
    """The same from JPEG files, the encoder compiled, which happens before the clock starts."""
    return run_glocal(case, folder, workers, compile=True)


def run_lightly(case: Case, folder: Path, workers: int) -> dict[str, float]:
    """lightly's pieces in a plain loop."""
    from benchmarks import peers  # not on every machine that measures ours

    return timed(case, peers.train(case, folder, workers, bf16=BF16), workers)


def run_lightly_tuned(case: Case, folder: Path, workers: int) -> dict[str, float]:
    """The same, in the memory format and with the allocation that Glocal trains with."""
    from benchmarks import peers

    return timed(case, peers.train(case, folder, workers, bf16=BF16, tuned=True), workers)


def run_resident(case: Case, folder: Path, workers: int) -> dict[str, float]:
    """Backbone, heads and optimiser on random input that is already there; the mean square in place of the loss."""
    return timed(case, resident(case, whole=True))


def run_bare(case: Case, folder: Path, workers: int) -> dict[str, float]:
    """The backbone alone, forward and backward."""
    return timed(case, resident(case, whole=False))


ARMS: dict[str, Callable[[Case, Path, int], dict[str, float]]] = {
    "glocal": run_glocal,
    "glocal, cached": run_cached,
    "glocal, compiled": run_compiled,
    "lightly": run_lightly,
    "lightly, tuned": run_lightly_tuned,
    "resident": run_resident,
    "bare": run_bare,
}


def timed(case: Case, steps: Iterator[None], workers: int = 0) -> dict[str, float]:
    """The rate of a training written as an iterator over its steps."""
    watch = Stopwatch(case.seconds, workers)
    for _ in steps:
        if watch():
            break
    return {"rate": watch.rate(case.batch)}


def resident(
    case: Case,
    *,
    whole: bool,
    feed: Callable[[], list[View]] | None = None,
    compiled: bool = False,
    change: Callable[[Backbone], Any] = lambda encoder: None,
) -> Iterator[None]:
    """Endless steps without loss and logging; without heads and optimiser too where not `whole`.

    `feed` gives the views of each step; by default they are always the same ones, which lie on the device. `change`
    may adapt the encoder beforehand.
    """
    if DEVICE.type == "cpu":
        keep_freed_memory()  # as training does
    cls = method_class(case.method)
    encoder = build_backbone(case.backbone, image_size=case.image_size, output_stride=case.stride, pool=cls.pool)
    change(encoder)
    method = cls(encoder, image_size=case.image_size, **case.options)
    method.to(device=DEVICE, memory_format=torch.channels_last).train()
    if compiled:
        encoder.compile_training()
    optimizer = build_optimizer(method, method.optimization, 1e-4)
    shape = (case.batch, 3, case.image_size, case.image_size)
    views = [
        View(torch.randn(shape, device=DEVICE).to(memory_format=torch.channels_last), torch.empty(0)) for _ in range(2)
    ]
    while True:
        outputs: list[Tensor] = []
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=BF16):
            for features in encode(encoder, feed() if feed else views):
                if not whole:
                    outputs.append(features.pooled if case.method == "vicreg" else features.tokens)
                    continue
                outputs.append(method.projector(features.pooled))
                if case.method == "vicregl":
                    outputs.append(method.local_map(features))
        torch.stack([output.float().square().mean() for output in outputs]).sum().backward()
        if whole:
            optimizer.step()
        method.zero_grad()
        yield


def measure(
    size: Size, folder: Path | None = None, keep: Callable[[dict[str, Any]], Any] = lambda so_far: None
) -> dict[str, Any]:
    """All cases, arms in turn, each run in a process of its own; `keep` is given what there is after each case."""
    full = size == "full"
    folder = folder or photos()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # of Glocal as many as it decides; lightly's compete with its training, and fewer are faster
    workers, theirs = (min(8, cores), min(8, max(1, cores // 2))) if full else (0, 0)
    found: dict[str, Any] = {
        "workers": workers,
        "workers_of_lightly": theirs,
        "precision": "bf16 autocast" if BF16 else "float32",
        "cases": [],
    }
    for case in CASES[size]:
        arms = [name for name in ARMS if case.compile or "compiled" not in name]
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in arms}
        for turn in range((3 if case.image_size < 200 else 2) if full else 1):
            for name in arms if turn % 2 == 0 else reversed(arms):
                arm = ARMS[name]
                settings = case, folder, theirs if name.startswith("lightly") else workers
                measured = isolated(arm, *settings) if full else arm(*settings)
                rounds[name].append(measured)
                print(f"  {case.name}: {name} {measured['rate']:.1f} images/s", flush=True)
        found["cases"].append(row(case, rounds))
        keep(found)
    return found


def row(case: Case, rounds: dict[str, list[dict[str, float]]]) -> dict[str, Any]:
    """Rates and ratios of one case."""
    rates = {name: [found["rate"] for found in each] for name, each in rounds.items()}
    logged = [found["logged"] for found in rounds["glocal"] if "logged" in found]
    ours = [name for name in rates if name.startswith("glocal")]
    trained = [name for name in rates if name not in ("resident", "bare")]
    return {
        **asdict(case),
        "width": case.width,
        "local_width": case.local_width if case.method == "vicregl" else None,
        "memory_format": {"glocal": "channels_last", "lightly": "contiguous", "resident": "channels_last"},
        "images_per_second": {name: summary(each) for name, each in rates.items()},
        "logged_images_per_second": statistics.median(logged) if logged else None,
        "times_lightly": {name: ratio(rates[name], rates["lightly"]) for name in ours},
        "times_lightly_tuned": {name: ratio(rates[name], rates["lightly, tuned"]) for name in ours},
        "efficiency": {name: ratio(rates[name], rates["resident"]) for name in trained},
        "of_bare_backbone": {name: ratio(rates[name], rates["bare"]) for name in trained},
    }
