"""Memory that is freed is kept: measured by page faults, in a process of its own."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys, torch
from glocal.training.allocation import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    return [torch.ones(mib, 2**18) for mib in (30, 20, 10, 5, 25, 30)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="a setting of glibc")
def test_a_step_asks_the_system_for_no_memory():
    def faults(how: str) -> int:
        done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
        return int(done.stdout)

    assert faults("kept") < 200
    assert faults("as it is") > 2_000


def test_elsewhere_it_does_nothing(monkeypatch):
    from glocal.training import allocation

    def no_library(name):
        raise TypeError("no such thing on Windows")

    monkeypatch.setattr(allocation.ctypes, "CDLL", no_library)
    allocation.keep_freed_memory()
