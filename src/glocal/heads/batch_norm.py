"""Batch normalisation over the batch joined over processes, with exact gradients, on any device."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from glocal.distributed import all_sum, gather, world_size
from glocal.errors import UsageError


class BatchNorm(nn.BatchNorm1d):
    """`nn.BatchNorm` of (N, C) or (N, C, ...) whose statistics are those of the joined batch.

    On one process it *is* PyTorch's; on several, its output, gradients and running statistics are those that PyTorch's
    would have on one process holding the joined batch. (`nn.SyncBatchNorm` is the same, but refuses the CPU.) Processes
    may hold different numbers of samples. State dicts are interchangeable with PyTorch's.
    """

    def _check_input_dim(self, x: Tensor) -> None:
        if x.ndim < 2:
            raise ValueError(f"expected (N, C) or (N, C, ...), got {tuple(x.shape)}")

    def forward(self, x: Tensor) -> Tensor:
        use_batch = self.training or self.running_mean is None
        if not use_batch or world_size() == 1:
            return super().forward(x)
        self._check_input_dim(x)
        out, mean, variance, count = _Joined.apply(x, self.weight, self.bias, self.eps)
        if self.training and self.running_mean is not None:
            self._follow(mean, variance * (count / (count - 1)))
        return out

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        """Move the running statistics towards the batch's; `momentum=None` averages all batches seen."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = 1.0 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), momentum)
        self.running_var.lerp_(variance.to(self.running_var.dtype), momentum)


class _BatchNormAct(BatchNorm):
    """The same with the dropout and the activation that timm's `BatchNormAct2d` holds."""

    drop: nn.Module
    act: nn.Module

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.drop(super().forward(x)))


class _Joined(torch.autograd.Function):
    """Normalised x, and mean (C,), biased variance (C,) and number () of the values of each channel over all processes.

    PyTorch's own kernels, told the joined statistics, do all passes over x, of which nothing but x itself is kept: on
    CUDA those of `nn.SyncBatchNorm`, which keep its memory format, elsewhere those of an evaluation. Nothing waits for
    the device.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        x = _dense(x) if _cuda_kernels(x) else x
        mean, variance, count = _joined_statistics(x)
        if weight is not None and bias is not None:
            weight, bias = weight.to(mean.dtype), bias.to(mean.dtype)
        deviation = torch.rsqrt(variance + eps)
        ctx.save_for_backward(x, weight, mean, variance, deviation, count)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, variance, count)
        if _cuda_kernels(x):
            out = torch.batch_norm_elemt(x, weight, bias, mean, deviation, eps)
        else:
            out = F.batch_norm(x, mean, variance, weight, bias, eps=eps)
        return out, mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, variance, deviation, count = ctx.saved_tensors
        affine = weight is not None
        if _cuda_kernels(x):
            kept = mean, deviation, weight
            *sums, by_gain, by_bias = torch.batch_norm_backward_reduce(_dense(grad), x, *kept, True, affine, affine)
            by_mean, by_deviation = all_sum(torch.stack(sums))
            counts = count.to(torch.int32).view(1)
            by_x = torch.batch_norm_backward_elemt(_dense(grad), x, *kept, by_mean, by_deviation, counts)
            return by_x, by_gain if affine else None, by_bias if affine else None, None
        gain = torch.ones_like(mean) if weight is None else weight
        # as if the statistics were constants: γ/σ·grad, and the sums over this process's values of grad·x̂ and grad
        by_x, by_gain, by_bias = torch.ops.aten.native_batch_norm_backward(
            grad, x, gain, mean, variance, mean, deviation, False, ctx.eps, (True, True, True)
        )
        # they are not: − γ/σ (x̂ · mean of grad·x̂ + mean of grad), over all processes
        means = all_sum(torch.stack([by_gain, by_bias])) / count
        slope, offset = -gain * deviation * means
        by_x += F.batch_norm(x, mean, variance, slope, offset, eps=ctx.eps)
        return by_x, by_gain if affine else None, by_bias if affine else None, None


def _cuda_kernels(x: Tensor) -> bool:
    """Whether PyTorch has, for x, the kernels of `nn.SyncBatchNorm`."""
    return x.is_cuda


def _dense(x: Tensor) -> Tensor:
    """x without gaps, in its own memory format."""
    return x if x.is_contiguous(memory_format=torch.channels_last) else x.contiguous()


def _joined_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number () of the values of each channel over all processes.

    One collective: each process sends its count, mean and variance, which are joined as Chan et al. (1979) do; unlike
    sums of squares they do not cancel.
    """
    dtype = torch.float32 if x.dtype in (torch.float16, torch.bfloat16) else x.dtype
    unused = x.new_zeros((2, x.shape[1]), dtype=dtype)  # running statistics; they say the precision of the batch's
    mean, variance = torch.batch_norm_update_stats(x, unused[0], unused[1], 0.0)
    count = mean.new_full((1,), x.numel() / x.shape[1])
    joined = gather(torch.cat([count, mean, variance])[None])
    counts, means, variances = joined.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    share = counts / total
    mean = (share * means).sum(dim=0)
    return mean, (share * (variances + (means - mean).square())).sum(dim=0), total


def sync_batch_norms(module: nn.Module) -> nn.Module:
    """Make every batch normalisation inside `module` a `BatchNorm`, in place; parameters, buffers and names stay.

    Returns:
        `module`.

    Raises:
        UsageError: on a batch normalisation of an unknown kind.
    """
    for name, child in module.named_modules():
        if type(child) in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d):
            child.__class__ = BatchNorm
        elif isinstance(child, nn.BatchNorm2d) and hasattr(child, "act") and hasattr(child, "drop"):
            child.__class__ = _BatchNormAct  # type: ignore[assignment]
        elif isinstance(child, nn.modules.batchnorm._BatchNorm) and not isinstance(child, BatchNorm | nn.SyncBatchNorm):
            raise UsageError(f"cannot synchronise {name}, a {type(child).__name__}; use nn.BatchNorm2d, or one process")
    return module
