"""Every method, three steps of Glocal's own loop: without waiting for the GPU, as on the CPU, in half precision too."""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.gpu.loop import Enough, exact_float32, trained
from benchmarks.gpu.notes import Notes, within
from glocal.methods import method_class, method_names

STEPS = 3
TRANSFORMERS = {"msn", "loca"}  # they drop tokens
CLUSTERING = {"deepcluster", "deepcluster_v2", "deepercluster"}
"""Whose targets come from k-means: where a rounding moves an image to another cluster, losses come apart by more."""


def measure(notes: Notes) -> None:
    """The losses of three steps, for every method."""
    names = method_names("images")
    # forked before CUDA wakes up; two threads each, so that the GPU's own steps have cores left
    with multiprocessing.get_context("fork").Pool(max(1, (os.cpu_count() or 1) // 4)) as pool:
        on_cpu = {name: pool.apply_async(losses, (name, "cpu", "32-true", notes.cuda)) for name in names}
        for name in names:
            with notes.check(f"{name}: float32, as on the CPU, nothing waits", needs_cuda=True) as found:
                expected = on_cpu[name].get()
                found["losses"] = [float(f"{loss:.6g}") for loss in expected]
                if notes.cuda:
                    ours = losses(name, "cuda", "32-true", True, sync="error")
                    worst = max(abs(a - b) / abs(b) for a, b in zip(ours, expected, strict=True))
                    within(found, 5e-2 if name in CLUSTERING else 1e-3, apart=worst)
            with notes.check(f"{name}: bf16, finite, nothing waits") as found:
                found["losses"] = finite(losses(name, notes.device, "bf16-mixed", notes.cuda, sync="error"))
            if notes.cuda:
                with notes.check(f"{name}: fp16, clipped, finite") as found:
                    found["losses"] = finite(losses(name, "cuda", "16-mixed", True, clip=1.0))
        if not notes.cuda:
            notes.skip("all: fp16 with clip", "needs CUDA")


def finite(found: list[float]) -> list[float]:
    """The losses, if they are numbers."""
    assert len(found) == STEPS, f"{len(found)} steps"
    assert all(map(math.isfinite, found)), f"losses {found}"
    return [float(f"{loss:.6g}") for loss in found]


def losses(
    name: str, device: str, precision: str, full: bool, *, sync: str = "default", clip: float = 0.0
) -> list[float]:
    """Of three steps; `full`: at 64 px, else as small as it goes. `sync`: what a wait for the GPU is."""
    if device == "cpu":
        torch.set_num_threads(2 if full else 1)
    kept: list[torch.Tensor] = []

    def watch(step: Callable[[], Any], number: int) -> Any:
        with without_waiting(device, sync), exact_float32():
            loss = step()
        kept.append(loss.total.detach())
        if len(kept) == STEPS:
            raise Enough  # what comes after training is a matter of `runs`
        return loss

    size, images = (64, 16) if full else (32, 8)
    network = ("vit_tiny_patch16_224" if full else "test_vit") if name in TRANSFORMERS else "test_resnet"
    network = "resnet18" if full and network == "test_resnet" else network
    small = {"small_crops": 2, "small_size": size // 2} if name in TRANSFORMERS else {}
    small |= method_class(name).needs
    trained(
        f"parts:n={4 * images},size={size}", watch, method=name, backbone=network, image_size=size, batch_size=images,
        epochs=9, accelerator=device, precision=precision, workers=0, clip=clip, **small,
    )  # fmt: skip
    return [float(loss) for loss in kept]


@contextmanager
def without_waiting(device: str, mode: str) -> Iterator[None]:
    """Operations that make the processor wait for the GPU raise, if mode is "error"."""
    if device != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode(mode)
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")
