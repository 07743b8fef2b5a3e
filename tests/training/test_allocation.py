"""Memory that is freed is kept: seen in a process of its own."""

import platform
import subprocess
import sys

import pytest

from glocal.pipeline import launch

PROGRAM = """
import ctypes, os, torch
from glocal.pipeline.launch import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

kept = os.fork() > 0  # in this process; in its child all stays as it is
if kept:
    os.wait()
    keep_freed_memory()
else:
    ctypes.CDLL(None).mallopt(-3, 2**17)  # glibc's own threshold, whatever importing has freed and so raised it to
before = resident()
pixels = torch.ones(30, 2**18)  # 30 MiB
assert resident() > before + 29
del pixels
print(resident() - before, flush=True)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_what_is_freed_stays_with_the_process():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    as_it_is, kept = map(float, done.stdout.split())
    assert -20 < as_it_is < 10
    assert 20 < kept < 60


def test_elsewhere_it_does_nothing(monkeypatch):
    def no_library(name):
        raise TypeError("no such thing on Windows")

    monkeypatch.setattr(launch.ctypes, "CDLL", no_library)
    launch.keep_freed_memory()
