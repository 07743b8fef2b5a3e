"""Memory that is freed is kept: seen in a process of its own."""

import ctypes
import os
import platform
from pathlib import Path

import pytest
import torch

from glocal.pipeline import launch
from processes import SERVER


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def what_stays(queue, keep: bool) -> None:
    """MiB that stay with the process after 240 MiB were freed."""
    if keep:
        launch.keep_freed_memory()
    else:
        ctypes.CDLL(None).mallopt(-3, 2**17)  # glibc's own threshold, whatever importing has freed and so raised it to
    before = resident()
    batches = [torch.ones(30, 2**18) for _ in range(8)]  # 30 MiB each
    assert resident() > before + 200
    del batches
    queue.put(resident() - before)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_what_is_freed_stays_with_the_process():
    queue = SERVER.SimpleQueue()
    found = []
    for keep in (False, True):
        process = SERVER.Process(target=what_stays, args=(queue, keep))
        process.start()
        process.join(60)
        assert process.exitcode == 0
        found.append(queue.get())
    assert found[0] < 80  # other pages come and go: up to 24 MiB were seen
    assert found[1] > 160


def test_elsewhere_it_does_nothing(monkeypatch):
    def no_library(name):
        raise TypeError("no such thing on Windows")

    monkeypatch.setattr(launch.ctypes, "CDLL", no_library)
    launch.keep_freed_memory()
