"""On which device to compute, and with how many processes beside it: the one place that says what "auto" is."""

import os

import torch

from glocal.errors import UsageError


def best_accelerator() -> str:
    """What "auto" is: "cuda" where there is one, else "mps", else "cpu"."""
    return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"


def find_device(name: str = "auto") -> torch.device:
    """A device by its name: auto, cpu, cuda, cuda:N or mps; a `UsageError` where this machine has none such."""
    kind, _, number = (best_accelerator() if name == "auto" else name).partition(":")
    if kind not in ("cpu", "cuda", "mps") or not (number or "0").isdecimal():
        raise UsageError(f"device {name} is none of auto, cpu, cuda, cuda:N and mps")
    there = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}[kind]
    if int(number or 0) >= there:
        has = f"has {there} such device{'' if there == 1 else 's'}" if there else "has none"
        raise UsageError(f"device {name}: this machine {has}; leave it out, or take cpu")
    return torch.device(kind) if kind != "cuda" else torch.device(kind, int(number or 0))


def cores() -> int:
    """How many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
