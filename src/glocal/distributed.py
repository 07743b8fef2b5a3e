"""Collectives that carry gradients, and are the identity on one process.

Convention: each rank computes the loss of the *joined* batch, from gathered or exchanged embeddings; DDP then averages
the parameter gradients over ranks. The backward of each collective is its transpose, which sums gradients over ranks,
so the rank-mean loss and the averaged gradient equal those of a single process holding the whole batch.
"""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable


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
