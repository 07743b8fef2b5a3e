"""What more costs: a larger batch, finer maps, more views, more workers, more processes."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import losses
from benchmarks.losses import Case
from benchmarks.measure import Size, interleaved, peak_memory, summary
from benchmarks.photos import photos
from glocal.data import open_source
from glocal.run import Run
from glocal.views import ViewLoader, two_views

FULL: dict[str, tuple[Case, ...]] = {
    "batch": tuple(Case(batch, 7, 512, 2048) for batch in (16, 32, 64, 128, 256, 512)),
    "cells": tuple(Case(32, cells, 512, 2048) for cells in (7, 14, 20, 32)),
    "views": tuple(Case(32, 7, 512, 2048, views=views) for views in (2, 4, 6, 8, 10)),
}
SMOKE = {name: tuple(Case(8, 4, 6, 12, views=views) for views in (2, 3)) for name in FULL}


def measure(size: Size, folder: Path | None = None) -> dict[str, Any]:
    """One list of rows for each thing that grows."""
    full = size == "full"
    folder = folder or photos()
    cases = FULL if full else SMOKE
    grown = {name: measure_losses(each, 5 if full else 1) for name, each in cases.items()}
    cores = os.cpu_count() or 1
    workers = [n for n in (0, 1, 2, 4, 8) if n <= cores] if full else [0]
    return {
        **{f"loss_by_{name}": rows for name, rows in grown.items()},
        "loader_by_workers": [{"workers": n, **loader_rate(folder, n, full)} for n in workers],
        "training_by_processes": [training_rate(folder, n, full) for n in ((1, 2) if full else (1,))],
    }


def measure_losses(cases: tuple[Case, ...], rounds: int) -> list[dict[str, Any]]:
    """Glocal's loss, forward and backward, of each case in turn."""
    built = [losses.build(case) for case in cases]
    works = {str(k): losses.step(leaves, ours) for k, (leaves, ours, _) in enumerate(built)}
    times = interleaved(works, rounds=rounds, least=0.2 if rounds > 1 else 0.0)
    return [
        {
            "batch": case.batch,
            "cells": case.cells,
            "views": case.views,
            "seconds": summary(times[name]),
            "peak_bytes": peak_memory(work),
            "input_bytes": sum(leaf.numel() * leaf.element_size() for leaf in leaves),
        }
        for case, (name, work), (leaves, _, _) in zip(cases, works.items(), built, strict=True)
    ]


def loader_rate(folder: Path, workers: int, full: bool) -> dict[str, Any]:
    """Photographs per second, two views of 96 px each, nothing else running."""
    batch, steps = (32, 24) if full else (4, 2)
    loader = ViewLoader(
        open_source(str(folder)), two_views(96 if full else 32), batch_size=batch, seed=0, workers=workers
    )
    stream = (views for epoch in range(10**6) for views in loader.epoch(epoch))
    for _ in range(1 + 2 * workers):  # what the workers have made in advance
        next(stream)
    rates = []
    for _ in range(3 if full else 1):
        started = time.perf_counter()
        for _ in range(steps):
            next(stream)
        rates.append(batch * steps / (time.perf_counter() - started))
    loader.close()
    return {"images_per_second": summary(rates)}


def training_rate(folder: Path, processes: int, full: bool) -> dict[str, Any]:
    """Photographs per second over all processes, the joined batch and the number of threads being the same."""
    batch, steps = (64, 20) if full else (8, 2)
    threads = max(1, (os.cpu_count() or 1) // processes)
    with tempfile.TemporaryDirectory() as out:
        command = [
            sys.executable, "-m", "glocal", "pretrain", str(folder), "--method", "vicreg", "--accelerator", "cpu",
            "--backbone", "resnet18" if full else "test_resnet", "--image-size", "96" if full else "32",
            "--batch-size", str(batch // processes), "--devices", str(processes), "--max-steps", str(steps),
            "--epochs", "10000", "--workers", "1" if full else "0", "--report", "false", "--quiet", "true",
            "--out", f"{out}/run",
        ]  # fmt: skip
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        lines = [line for line in Run(Path(out) / "run").metrics() if "images_per_second" in line]
    return {
        "processes": processes,
        "threads_each": threads,
        "joined_batch": batch,
        "images_per_second": lines[-1]["images_per_second"],
    }
