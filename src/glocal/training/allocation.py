"""Memory that the C library hands back to the system after every step, only to ask for it again."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
LARGEST = 32 * 2**20
"""Bytes up to which glibc lets itself be told to take memory from its heap rather than from the system."""


def keep_freed_memory() -> None:
    """Keep what tensors free for the next ones, for the rest of this process and its forks. glibc's; elsewhere nothing.

    A training step on a CPU frees and allocates the same hundreds of megabytes over and over. glibc returns them to the
    system and gets them back page by page, each page zeroed: tens of thousands of page faults a step of a ResNet-18.
    Kept, there are none; in return the process stays at its peak between steps.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # not glibc
        return
    mallopt(MMAP_THRESHOLD, LARGEST)
    mallopt(TRIM_THRESHOLD, 2**31 - 1)
