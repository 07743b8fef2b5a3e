"""Run a function on several gloo processes of this machine, as data-parallel training would."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp


def _run(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # all is said: gloo's threads may abort a process whose interpreter is being taken down


def on_processes(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)`, a function at the top of its module, returns on each of `world` processes.

    Processes are slow to start: let one call compute all that a test file compares.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_run, (world, folder, function, arguments), nprocs=world)
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
