"""The contract that a method's state is equal on all processes (see `glocal.methods`), checked."""

import hashlib
import warnings
from itertools import chain

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glocal.distributed import gather, rank, world_size
from glocal.training.stopping import TrainingStopped

ROUNDING = 1e-5  # distance relative to the norm up to which floats of unlike machines may differ


@torch.no_grad()
def check_buffers(module: nn.Module) -> None:
    """Refuse a buffer or parameter that is not the same on all processes, each of which has to call this.

    One collective compares digests of their bits. Only where these differ are contents sent, to say by how much: more
    than rounding stops (`TrainingStopped` on all processes), rounding warns (once, as Python's warnings do).
    """
    named = dict(chain(module.named_buffers(), module.named_parameters()))
    if world_size() == 1 or not named:
        return
    mine = torch.tensor([(_digest(x), x.numel()) for x in named.values()], device=next(iter(named.values())).device)
    others = gather(mine[None])  # (W, N, 2)
    digests_differ, sizes_differ = (others != others[0]).any(dim=0).T.tolist()
    for (name, tensor), differs, resized in zip(named.items(), digests_differ, sizes_differ, strict=True):
        what = f"{'parameter' if isinstance(tensor, nn.Parameter) else 'buffer'} '{name}' differs between processes"
        cure = "make it of all processes' samples, with glocal.distributed.gather or all_sum"
        if resized:
            raise TrainingStopped(f"{what} in size: {cure}")
        if not differs:
            continue
        norm, other, distance = _farthest(tensor)
        if not distance <= (ROUNDING * norm if tensor.is_floating_point() else 0):  # also where one is not a number
            raise TrainingStopped(f"{what} (norms {norm:.4g} and {other:.4g}, {distance:.1e} apart): {cure}")
        if rank() == 0:
            warnings.warn(f"{what} by rounding, as it may where machines are unlike")


def _digest(tensor: Tensor) -> int:
    """64 bits that follow from the contents."""
    contents = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return int.from_bytes(hashlib.blake2b(contents, digest_size=8).digest(), "little", signed=True)


def _farthest(tensor: Tensor) -> tuple[float, float, float]:
    """Norm on the first process and on the one farthest from it, and the distance between them."""
    here = tensor.detach().double().flatten()
    first = here.clone()
    dist.broadcast(first, 0)
    found = gather(torch.stack([here.norm(), (here - first).norm()])[None])  # (W, 2)
    norm, distance = found[found[:, 1].nan_to_num(nan=torch.inf).argmax()].tolist()
    return found[0, 0].item(), norm, distance
