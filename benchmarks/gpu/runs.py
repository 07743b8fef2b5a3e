"""A run that is killed and resumed ends as one that was not, and is evaluated; to the bit where it was asked for."""

from __future__ import annotations

import inspect
import json
import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import glocal
import glocal.evaluation.evaluate
import glocal.pipeline.start
from benchmarks.gpu.loop import apart
from benchmarks.gpu.notes import Notes, within


def measure(notes: Notes) -> None:
    """With and without `--deterministic`, where there is such an option; the CPU needs none to be exact."""
    torch.set_num_threads(1)  # those that sums here would start do not survive the forks
    size, stop = (96, 10) if notes.cuda else (32, 2)
    options: dict[str, Any] = {"method": "vicregl", "backbone": "resnet18" if notes.cuda else "test_resnet"}
    options |= {"image_size": size, "batch_size": 32 if notes.cuda else 8, "epochs": 50, "max_steps": 2 * stop}
    options |= {
        "accelerator": notes.device,
        "workers": 2 if notes.cuda else 0,
        "cache": False,
        "compile": False,
        "report": False,
    }
    options |= {"quiet": True, "checkpoint_steps": stop, "monitor_every": 1000}
    data = f"parts:n={256 if notes.cuda else 40},size={size}"
    for deterministic in (False, True) if notes.cuda else (True,):
        said = "with --deterministic" if deterministic else "as it is by default"
        if deterministic and "deterministic" not in inspect.signature(glocal.pretrain).parameters:
            notes.skip(f"kill and resume, {said}", "glocal.pretrain has no such option")
            continue
        asked = options | ({"deterministic": True} if deterministic else {})
        runs = {name: str(notes.folder / f"{name}-{deterministic}") for name in ("whole", "again", "killed")}
        with notes.check(f"kill and resume, {said}", needs_cuda=True) as found:
            started = time.monotonic()
            for name in ("whole", "again"):
                forked(train, data, out=runs[name], **asked)
            found["seconds_of_a_run"] = round((time.monotonic() - started) / 2, 1)
            forked(train_and_die, data, stop, out=runs["killed"], dies=signal.SIGKILL, **asked)
            forked(train, None, resume=runs["killed"], quiet=True)
            states = {name: weights(run) for name, run in runs.items()}
            # two runs side by side say how much of the difference is the machine's own
            exact = deterministic or not notes.cuda
            within(found, 0.0 if exact else 1e-2, two_runs=distance(states["again"], states["whole"]))
            within(found, 0.0 if exact else 1e-2, resumed=distance(states["killed"], states["whole"]))
    with notes.check("evaluate: k-NN and linear", needs_cuda=True) as found:
        file, started = notes.folder / "scores.json", time.monotonic()
        forked(evaluate, str(notes.folder / "whole-True"), data, str(file))
        scores = json.loads(file.read_text())
        found["seconds"] = round(time.monotonic() - started, 1)
        found |= {task: scores[task]["top1"] for task in ("knn", "linear")}
        assert all(0 <= found[task] <= 1 for task in ("knn", "linear"))


def train(data: str | None, **options: Any) -> None:
    glocal.pretrain(data, **options)


def train_and_die(data: str, step: int, **options: Any) -> None:
    """Training that is killed as soon as the checkpoint of this step lies in its place."""
    replace = os.replace

    def replace_and_die(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == "last.pt" and torch.load(target, map_location="cpu")["position"]["step"] == step:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die
    glocal.pretrain(data, **options)


def evaluate(run: str, data: str, file: str) -> None:
    glocal.evaluate(run, data, tasks=["knn", "linear"], json=file)


def forked(function: Callable[..., None], *arguments: Any, dies: int = 0, **options: Any) -> None:
    """Do it in a process of its own, which has imported everything and not yet woken CUDA; it is to end as told."""
    child = multiprocessing.get_context("fork").Process(target=function, args=arguments, kwargs=options)
    child.start()
    child.join()
    if child.exitcode != -dies:
        raise RuntimeError(f"{function.__name__} ended with {child.exitcode}")


def weights(run: str) -> dict[str, torch.Tensor]:
    """Parameters and buffers of the last checkpoint."""
    return torch.load(Path(run, "checkpoints", "last.pt"), map_location="cpu")["method"]


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    """Of all weights together, over their norm."""
    flat = [torch.cat([state[name].double().flatten() for name in sorted(theirs)]) for state in (ours, theirs)]
    return apart(*flat)
