"""The loader's worker processes: what they hear, how they end, what they leave to training."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from contextlib import contextmanager

import torch

STOPPING = {getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1") if hasattr(signal, name)}
"""Signals that end training, which saves first."""
LEAST_PRIORITY = 19  # niceness of worker processes that yield


def tell_of_deaths_later() -> None:
    """Have a worker's death told by the next batch that is asked for, not amid a step that could not be saved."""
    if hasattr(signal, "SIGCHLD") and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # DataLoader's own handler raises wherever the program stands


def init_worker(niceness: int, _: int) -> None:
    # Signals reach the whole process group; only the main process should answer them, and it stops the workers.
    for name in STOPPING:
        signal.signal(name, signal.SIG_IGN)
    _end_with_parent()
    sys.excepthook = _quiet_about_lost_connections
    torch.set_num_threads(1)
    if hasattr(os, "nice"):
        os.nice(niceness)


def _end_with_parent() -> None:
    """On Linux, have the kernel end this worker when its parent has ended, however that was."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:  # it ended before it could be asked for
            os._exit(1)


def _quiet_about_lost_connections(kind, error, trace) -> None:
    # The main process may leave while a helper thread is handing it a batch.
    if not issubclass(kind, ConnectionError | EOFError):
        sys.__excepthook__(kind, error, trace)


@contextmanager
def signals_blocked():
    """Signals wait: worker processes started inside inherit the block, and none dies of one while importing."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
