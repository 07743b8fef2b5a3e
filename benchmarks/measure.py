"""Measuring: rounds that alternate, medians, peak memory, and a process of its own for what must not disturb."""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, Literal

import torch
from torch.profiler import ProfilerActivity, profile

Size = Literal["full", "smoke"]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seconds(work: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call, until the device has done its part."""
    _synchronize()
    started = time.perf_counter()
    work()
    _synchronize()
    return time.perf_counter() - started


def interleaved(arms: Mapping[str, Callable[[], Any]], *, rounds: int, least: float = 0.0) -> dict[str, list[float]]:
    """Seconds per call of each arm, in each of some rounds: A B, B A, A B, ... after one call of each to warm up.

    Args:
        arms: what to compare.
        rounds: how many times each is measured.
        least: repeat a quick arm within its turn until about so many seconds have passed, and take their mean.
    """
    repeats = {name: max(1, round(least / seconds(work))) for name, work in arms.items()}
    found: dict[str, list[float]] = {name: [] for name in arms}
    for turn in range(rounds):
        for name in list(arms) if turn % 2 == 0 else reversed(list(arms)):
            found[name].append(seconds(lambda name=name: [arms[name]() for _ in range(repeats[name])]) / repeats[name])
    return found


def ratio(above: Sequence[float], below: Sequence[float]) -> float:
    """Median over rounds of above/below, each of the same round."""
    return statistics.median(a / b for a, b in zip(above, below, strict=True))


def compared(times: Mapping[str, Sequence[float]], ours: str, theirs: str) -> dict[str, Any]:
    """The rows of a table on time: medians, ranges, and how many times faster `ours` is than `theirs`."""
    return {
        "seconds": {name: summary(values) for name, values in times.items()},
        "times_faster": ratio(times[theirs], times[ours]),
    }


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Median, least and greatest, and how many there were."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": len(values)}


def peak_memory(work: Callable[[], Any]) -> int:
    """Most bytes of tensors that a call held at once beyond those it found, by the allocator's own record.

    On the CPU the profiler lists every allocation and release; their running sum has a maximum. What libraries take for
    themselves is not in it. On a GPU the caching allocator knows.
    """
    if DEVICE.type == "cuda":
        _synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        work()
        _synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        work()
    assert record.profiler is not None
    events = [event for event in record.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(*arguments)` in a fresh process, forked from one that has only imported the libraries."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.preload"])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def _synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()
