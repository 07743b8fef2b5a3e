"""Joined batches in a group of one process, past the short cuts for one: what several GPUs would run."""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn

from benchmarks.gpu.loop import apart, exact_float32
from benchmarks.gpu.notes import Notes, within
from glocal import distributed
from glocal.heads import batch_norm, sync_batch_norms
from glocal.losses import covariance, vicreg_loss

SHAPES = {"(N, C)": (64, 48), "NCHW": (16, 32, 9, 9), "channels_last": (16, 32, 9, 9)}
NCCL = {"backend": "nccl", "device_id": torch.device("cuda", 0)}
LIMITS = {torch.float32: 2e-5, torch.bfloat16: 1e-2}


def measure(notes: Notes) -> None:
    """Against `nn.BatchNorm` and plain tensors, values and gradients."""
    if not notes.cuda:
        notes.skip("NCCL", "needs CUDA; the group below is gloo's")
    where = (notes.folder / "store").resolve()
    place = {"init_method": f"file://{where}", "rank": 0, "world_size": 1}
    dist.init_process_group(**place, **(NCCL if notes.cuda else {"backend": "gloo"}))
    with exact_float32():
        for (name, shape), dtype in itertools.product(SHAPES.items(), LIMITS):
            with notes.check(f"joined BatchNorm, {str(dtype)[6:]}, {name}") as found:
                batch_norms(found, notes.device, dtype, shape, name == "channels_last")
        for collective in (distributed._Gather, distributed._Sum, distributed._Exchange):
            with notes.check(f"{collective.__name__.strip('_').lower()}, forward and backward") as found:
                x = torch.randn(6, 4, 3, device=notes.device, requires_grad=True)
                by_out = torch.randn(6, 4, 3, device=notes.device)
                out = collective.apply(x)
                out.backward(by_out)
                within(found, 0.0, value=apart(out, x))
                within(found, 0.0, gradient=apart(x.grad, by_out))
        for dtype in LIMITS:
            with notes.check(f"sharded moments: the VICReg loss, {str(dtype)[6:]}") as found:
                moments(found, notes.device, dtype)
        with notes.check("DistributedDataParallel around a ResNet of joined BatchNorms, channels_last") as found:
            wrapped(found, notes.device)
    dist.destroy_process_group()


@contextmanager
def as_one_of_two() -> Iterator[None]:
    """Collectives are called though there is but one process."""
    calls = {"gather": distributed._Gather.apply, "all_sum": distributed._Sum.apply}
    with ExitStack() as patches:
        patches.enter_context(mock.patch.multiple(batch_norm, world_size=lambda: 2, **calls))
        exchange = distributed._Exchange.apply
        # both processes' shares of the distance would be halves; with one there is one share, the whole
        patches.enter_context(mock.patch.multiple(covariance, exchange=exchange, all_sum=calls["all_sum"]))
        joined = covariance.joined_variance_and_covariance

        def past_the_short_cut(z: Tensor) -> tuple[Tensor, Tensor]:
            with mock.patch.object(covariance, "world_size", return_value=2):
                return joined(z)

        patches.enter_context(mock.patch.object(covariance, "joined_variance_and_covariance", past_the_short_cut))
        yield


def batch_norms(found: dict, device: str, dtype: torch.dtype, shape: tuple[int, ...], channels_last: bool) -> None:
    """Output, all gradients, running statistics and memory format, against PyTorch's layer in float32."""
    torch.manual_seed(0)
    plain = (nn.BatchNorm1d if len(shape) == 2 else nn.BatchNorm2d)(shape[1]).to(device)
    nn.init.normal_(plain.weight)
    nn.init.normal_(plain.bias)
    joined = sync_batch_norms(copy.deepcopy(plain))
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, by_out = (3 * torch.randn(shape, device=device).to(dtype).to(memory_format=layout) + 1 for _ in range(2))
    ours, theirs = x.clone().requires_grad_(), x.float().requires_grad_()
    with as_one_of_two():
        out = joined(ours)
        out.backward(by_out)
    expected = plain(theirs)
    expected.backward(by_out.float())
    assert out.dtype == dtype, out.dtype
    assert out.is_contiguous(memory_format=layout), "the output has lost its memory format"
    assert ours.grad.is_contiguous(memory_format=layout), "the gradient has lost its memory format"
    limit = LIMITS[dtype]
    within(found, limit, out=apart(out, expected))
    within(found, limit, by_x=apart(ours.grad, theirs.grad))
    for name in ("weight", "bias"):
        within(found, limit, **{f"by_{name}": apart(getattr(joined, name).grad, getattr(plain, name).grad)})
    within(found, limit, running_mean=apart(joined.running_mean, plain.running_mean))
    within(found, limit, running_var=apart(joined.running_var, plain.running_var))


def moments(found: dict, device: str, dtype: torch.dtype) -> None:
    """Variance and covariance by columns that were exchanged, against those of one process."""
    torch.manual_seed(0)
    views = [torch.randn(24, 40, device=device).to(dtype) for _ in range(2)]
    ours, theirs = ([view.clone().requires_grad_() for view in views] for _ in range(2))
    with as_one_of_two():
        loss = vicreg_loss(*ours).total
        loss.backward()
    expected = vicreg_loss(*theirs).total
    expected.backward()
    within(found, LIMITS[dtype], value=apart(loss, expected))
    within(found, LIMITS[dtype], gradient=max(apart(a.grad, b.grad) for a, b in zip(ours, theirs, strict=True)))


def wrapped(found: dict, device: str) -> None:
    """A step of a network as several GPUs train it, against the network alone."""
    import timm

    torch.manual_seed(0)
    plain = timm.create_model("test_resnet", num_classes=0).to(device=device, memory_format=torch.channels_last)
    joined = sync_batch_norms(copy.deepcopy(plain))
    parallel = nn.parallel.DistributedDataParallel(joined, broadcast_buffers=False)
    x = torch.randn(8, 3, 64, 64, device=device).to(memory_format=torch.channels_last)
    with as_one_of_two():
        parallel(x).square().sum().backward()
    plain(x).square().sum().backward()
    gradients = zip(joined.parameters(), plain.parameters(), strict=True)
    within(found, 1e-3, gradient=max(apart(a.grad, b.grad) for a, b in gradients if b.grad.norm() > 1e-6))
