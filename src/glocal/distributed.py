"""Collectives that carry gradients, and are the identity on one process; and what else processes ask of each other.

Convention: each rank computes the loss of the *joined* batch, from gathered or exchanged embeddings; DDP then averages
the parameter gradients over ranks. The backward of each collective is its transpose, which sums gradients over ranks,
so the rank-mean loss and the averaged gradient equal those of a single process holding the whole batch.
"""

import socket
from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from glocal.errors import UsageError

T = TypeVar("T")
PATIENCE = timedelta(days=365)
"""How long to wait for one that looks through a folder, evaluates or writes. One that ends is noticed at once."""


def world_size() -> int:
    """Number of processes; 1 when torch.distributed is not initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Index of this process; 0 when torch.distributed is not initialised."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        x = x.contiguous()
        out = x.new_empty((world_size() * x.shape[0], *x.shape[1:]))
        dist.all_gather_into_tensor(out, x)
        ctx.rows = x.shape[0]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.contiguous()
        out = grad.new_empty((ctx.rows, *grad.shape[1:]))
        dist.reduce_scatter_tensor(out, grad)
        return out


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        out = x.clone()
        dist.all_reduce(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        grad = grad.clone()
        dist.all_reduce(grad)
        return grad


def share(size: int) -> list[int]:
    """How many of `size` things each of the W ranks takes: as equal as can be, the first ranks one more."""
    return [size // world_size() + (r < size % world_size()) for r in range(world_size())]


class _Exchange(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        parts, world = share(x.shape[0]), world_size()
        ctx.parts, mine = parts, parts[rank()]
        out = x.new_empty((world * mine, *x.shape[1:]))
        dist.all_to_all_single(out, x.contiguous(), [mine] * world, parts)
        return out.view(world, mine, *x.shape[1:]).transpose(0, 1).flatten(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        world, (mine, batch, *rest) = world_size(), grad.shape
        grad = grad.view(mine, world, batch // world, *rest).transpose(0, 1).contiguous()
        out = grad.new_empty((sum(ctx.parts), batch // world, *rest))
        dist.all_to_all_single(out, grad.flatten(0, 1), ctx.parts, [mine] * world)
        return out


def gather(x: Tensor) -> Tensor:
    """Concatenate `x` (B, ...) over the W ranks, (W·B, ...), with gradients. All ranks need equal shapes."""
    return x if world_size() == 1 else _Gather.apply(x)


def all_sum(x: Tensor) -> Tensor:
    """Sum `x` over ranks, with gradients."""
    return x if world_size() == 1 else _Sum.apply(x)


def exchange(x: Tensor) -> Tensor:
    """From all of (S, B, ...) on its own batch to this rank's `share` of S on the joined batch, with gradients.

    What is said of each of S things apart, such as statistics over the batch of each column, costs a rank the same
    time and memory however many ranks there are; an `all_sum` of the parts follows. Between `gather` and a
    reduce-scatter of the gradients every rank would hold, and compute, everything.
    """
    return x if world_size() == 1 else _Exchange.apply(x)


@cache
def _patient_group(world: Any) -> Any:
    return dist.new_group(backend="gloo", timeout=PATIENCE)


def patient_group() -> Any:
    """All processes, without the time-out of training's collectives. All have to ask for it."""
    return _patient_group(dist.group.WORLD)


def each_says(mine: T) -> list[T]:
    """What each process says, by rank, on all; they wait for the last one however long it takes."""
    if world_size() == 1:
        return [mine]
    said: list[Any] = [None] * world_size()
    dist.all_gather_object(said, mine, group=patient_group())
    return said


def on_first(work: Callable[[], T]) -> T:
    """What `work` gives on the first process, on all, which wait however long it takes; where it refuses, all do."""
    if world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except UsageError as refusal:
            outcome[1] = str(refusal)
    dist.broadcast_object_list(outcome, group=patient_group())
    if outcome[1] is not None:
        raise UsageError(outcome[1])
    return outcome[0]


def on_each(work: Callable[[], T], *, first: bool = True) -> T:
    """What `work` gives on each process, here; where it refuses on one, all do, and say on which.

    Those that are to be `first` (of each host, one that downloads) work while the others wait, however long it takes.
    """
    if world_size() == 1:
        return work()
    result: Any = None
    for turn in (True, False):
        refusal = None
        try:
            result = work() if first == turn else result
        except UsageError as error:
            refusal = f"rank {rank()} on {socket.gethostname()}: {error}"
        if refusals := [said for said in each_says(refusal) if said]:
            raise UsageError(refusals[0])
    return result
