"""Batch normalisation over the batch joined over processes, with exact gradients, on any device."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glocal.distributed import gather, world_size
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
        mean, variance, count = _joined_statistics(x)
        if self.training and self.running_mean is not None:
            self._follow(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = torch.rsqrt(variance + self.eps)
        if self.weight is not None:
            scale = scale * self.weight
        out = (x.to(mean.dtype) - _along_channels(mean, x)) * _along_channels(scale, x)
        if self.bias is not None:
            out = out + _along_channels(self.bias, x)
        return out.to(x.dtype)

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


def _along_channels(vector: Tensor, x: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (x.ndim - 2))


def _joined_statistics(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean (C,), biased variance (C,) and number () of the values of each channel over all processes, with gradients.

    One collective: each process sends its count, mean and variance, which are joined as Chan et al. (1979) do; unlike
    sums of squares they do not cancel.
    """
    x = x.float() if x.dtype in (torch.float16, torch.bfloat16) else x
    variance, mean = torch.var_mean(x, dim=[d for d in range(x.ndim) if d != 1], correction=0)
    count = mean.new_tensor([x.numel() / x.shape[1]])
    joined = gather(torch.cat([count, mean, variance])[None])
    counts, means, variances = joined.split([1, len(mean), len(mean)], dim=1)
    total = counts.sum()
    if total < 2:
        raise ValueError(f"batch normalisation needs more than one value for each channel, got {tuple(x.shape)}")
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
