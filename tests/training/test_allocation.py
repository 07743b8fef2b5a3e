"""Memory that is freed is kept: seen in a process of its own."""

import platform
import subprocess
import sys

import pytest

from glocal.pipeline import launch

PROGRAM = """
import os, sys, torch
from glocal.pipeline.launch import keep_freed_memory

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

if sys.argv[1] == "kept":
    keep_freed_memory()
before = resident()
pixels = torch.ones(30, 2**18)  # 30 MiB
assert resident() > before + 29
del pixels
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
@pytest.mark.parametrize(("how", "least", "most"), [("kept", 20, 60), ("as it is", -20, 10)])
def test_what_is_freed_stays_with_the_process(how, least, most):
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    assert least < float(done.stdout) < most


def test_elsewhere_it_does_nothing(monkeypatch):
    def no_library(name):
        raise TypeError("no such thing on Windows")

    monkeypatch.setattr(launch.ctypes, "CDLL", no_library)
    launch.keep_freed_memory()
