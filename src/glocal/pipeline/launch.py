"""Processes: how many, on what, in which precision, and how they agree."""

import ctypes
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch

from glocal.config import PretrainConfig
from glocal.devices import best_accelerator
from glocal.distributed import on_first
from glocal.errors import UsageError
from glocal.fabric import DDPStrategy, Fabric, MixedPrecision
from glocal.training import Machine, this_machine

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


def under_torchrun(config: PretrainConfig) -> PretrainConfig:
    """The configuration with torchrun's numbers, where that has started the processes itself."""
    if "LOCAL_WORLD_SIZE" not in os.environ:
        return config
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return replace(config, devices=local, num_nodes=int(os.environ["WORLD_SIZE"]) // local)


def meet(config: PretrainConfig) -> tuple[Fabric, PretrainConfig, Machine]:
    """Start the processes. The first one's configuration and machine are everybody's: it alone has to see the run."""
    config = under_torchrun(config)
    mine = config, this_machine(config.accelerator)
    fabric = launch(*mine)
    first = on_first(lambda: mine)
    return (fabric if first == mine else launch(*first)), *first


def launch(config: PretrainConfig, machine: Machine) -> Fabric:
    """Start the processes, with precision and threads as configured; `UsageError` where this machine has none such."""
    warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated")  # its successor is too new
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")  # RMSNorm is only slower so
    for name in ("lightning_fabric", "lightning.pytorch"):  # Lightning announces itself at level INFO
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        fabric = Fabric(
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            **precision_arguments(config.precision or machine.precision, config.accelerator),
            # buffers are equal on all ranks already
            strategy=DDPStrategy(broadcast_buffers=False) if config.processes > 1 else "auto",
        )
    except (ValueError, RuntimeError) as error:  # Lightning's MisconfigurationException among them
        reason = str(error).splitlines()[0]
        raise UsageError(f"--accelerator {config.accelerator} --devices {config.devices}: {reason}") from error
    fabric.launch()
    torch.set_num_threads(config.threads or machine.threads)  # of several processes Lightning has set them, too
    if fabric.device.type == "cpu":
        keep_freed_memory()
    return fabric


@contextmanager
def algorithms(device: torch.device, *, deterministic: bool) -> Iterator[None]:
    """CUDA's fastest algorithms or, in their place, such as always sum in the same order; afterwards those of before.

    Elsewhere nothing is changed. A `UsageError` names an operation of which CUDA has none such.
    """
    if device.type != "cuda":
        yield
        return
    cudnn, memory = torch.backends.cudnn, cast(Any, torch.utils.deterministic)
    before = torch.get_deterministic_debug_mode(), cudnn.deterministic, cudnn.benchmark
    filled, workspace = memory.fill_uninitialized_memory, os.environ.get(WORKSPACE)
    cudnn.benchmark = not deterministic  # crops have few sizes: try all algorithms on each
    if deterministic:
        os.environ.setdefault(WORKSPACE, ":4096:8")  # is read when the first matrices are multiplied
        torch.use_deterministic_algorithms(True)
        cudnn.deterministic = True
        memory.fill_uninitialized_memory = False  # takes time, and all of ours is written before it is read
    try:
        yield
    except RuntimeError as error:
        if WORKSPACE in str(error):
            why = f"this Python has used the GPU before: set {WORKSPACE}=:4096:8 when it starts"
        elif "have a deterministic implementation" in str(error):
            why = f"{str(error).partition(',')[0]}; take another --backbone, or leave it out"
        else:
            raise
        raise UsageError(f"--deterministic: {why}") from error
    finally:
        torch.set_deterministic_debug_mode(before[0])
        cudnn.deterministic, cudnn.benchmark = before[1:]
        memory.fill_uninitialized_memory = filled
        if workspace is None:
            os.environ.pop(WORKSPACE, None)


class Autocast(MixedPrecision):
    """Automatic mixed precision that leaves the batch as it is.

    Fabric's casts every number that goes into a module, not only pixels: also a view's map home. Among coordinates of
    some hundred pixels bfloat16 has steps of 1 or 2.
    """

    def convert_input(self, data: Any) -> Any:
        """What a method receives: unchanged; autocast casts where an operation wants it."""
        return data


def precision_arguments(precision: str, accelerator: str) -> dict[str, Any]:
    """The arguments of `Fabric` for "bf16-mixed", "16-mixed" or a precision without autocast."""
    if precision not in ("bf16-mixed", "16-mixed"):
        return {"precision": precision}
    accelerator = best_accelerator() if accelerator == "auto" else accelerator
    device = accelerator if accelerator in ("cpu", "mps") else "cuda"
    return {"plugins": Autocast(precision, device)}  # type: ignore[arg-type]


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
    mallopt(-3, 32 * 2**20)  # M_MMAP_THRESHOLD: up to which memory comes from the heap; glibc allows no more
    mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD
