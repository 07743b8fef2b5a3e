"""Where ten steps go: launches, copies, waits, gaps in which the GPU idles, the most memory held."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.gpu.loop import Enough, trained
from benchmarks.gpu.notes import Notes

WARM, STEPS = 6, 10
CASES: dict[str, dict[str, Any]] = {
    "vicregl, ResNet-50 at 224 px": {"method": "vicregl", "backbone": "resnet50", "batch_size": 128},
    "dino, ViT-S, eight small crops": {
        "method": "dino", "backbone": "vit_small_patch16_224", "batch_size": 64, "small_crops": 8, "small_size": 96,
    },
    "deepercluster, ResNet-50 at 224 px": {"method": "deepercluster", "backbone": "resnet50", "batch_size": 128},
}  # fmt: skip
GAP = 20_000  # ns, from which on the GPU idles visibly


def measure(notes: Notes) -> None:
    """Ten steps of Glocal's own loop from JPEG files, after six."""
    for name, options in CASES.items():
        with notes.check(f"{name}, B {options['batch_size']}", needs_cuda=True) as found:
            small = {"image_size": 224, "workers": 14, "accelerator": "cuda"}
            if not notes.cuda:
                small = {"image_size": 32, "workers": 0, "accelerator": "cpu", "batch_size": 8, "compile": False}
                small |= {"backbone": "test_vit" if "vit" in options["backbone"] else "test_resnet"}
                small |= {"small_size": 32} if "small_size" in options else {}
            found |= traced(str(notes.folder / "photos"), **{**options, **small})


def traced(data: str, **options: Any) -> dict[str, Any]:
    """What the profiler saw."""
    cuda = options["accelerator"] == "cuda"
    activities = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * cuda
    watcher = profile(activities=activities)
    found: dict[str, Any] = {}

    def watch(step: Callable[[], Any], number: int) -> Any:
        if number == WARM:
            if cuda:
                torch.cuda.synchronize()
                torch.cuda.reset_peak_memory_stats()
            watcher.start()
        if number == WARM + STEPS:
            if cuda:
                torch.cuda.synchronize()
                found["peak_GiB"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
            watcher.stop()
            raise Enough
        return step()

    trained(data, watch, epochs=1000, max_steps=1000, **options)
    assert watcher.profiler is not None
    return found | summary(watcher.profiler.kineto_results.events(), cuda)


def summary(events: list[Any], cuda: bool) -> dict[str, Any]:
    """Counts per step, times in milliseconds per step."""
    here = [event for event in events if event.device_type() == DeviceType.CPU]
    names = Counter(event.name() for event in here)
    count = lambda *starts: sum(n for name, n in names.items() if name.startswith(starts)) / STEPS
    found: dict[str, Any] = {
        "operations": count("aten::"),
        "nonzero_and_item": count("aten::nonzero", "aten::_local_scalar_dense", "aten::masked_select"),
    }
    if not cuda:
        return found
    annotated = lambda event: event.name().startswith(("Optimizer.", "ProfilerStep", "autograd::"))
    there = [event for event in events if event.device_type() == DeviceType.CUDA and not annotated(event)]
    spans = sorted((event.start_ns(), event.end_ns()) for event in there)
    busy, idle, gaps, end = 0, 0, [], spans[0][0]
    for start, stop in spans:
        if start > end:
            idle += start - end
            gaps.append(start - end)
        busy += max(0, stop - max(start, end))
        end = max(end, stop)
    milliseconds = lambda ns: round(ns / 1e6 / STEPS, 3)
    time_of: Counter[str] = Counter()
    for event in there:
        time_of[event.name()[:90]] += event.duration_ns()
    copies = [event for event in there if event.name().startswith("Memcpy HtoD")]
    found |= {
        "launches": count("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"),
        "uploads": len(copies) / STEPS,
        "uploads_from_pageable_memory": sum("Pageable" in event.name() for event in copies) / STEPS,
        "waits": count("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize"),
        "ms_a_step": milliseconds(busy + idle),
        "ms_idle_a_step": milliseconds(idle),
        "busy_share": round(busy / (busy + idle), 3),
        "gaps_over_20_us": sum(gap > GAP for gap in gaps) / STEPS,
        "longest_gaps_ms": [round(gap / 1e6, 2) for gap in sorted(gaps, reverse=True)[:5]],
        "kernels_ms_a_step": {name: milliseconds(spent) for name, spent in time_of.most_common(12)},
    }
    return found
