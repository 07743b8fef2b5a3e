"""Two processes with half of the batch each say what one process says of the whole: losses, gradients, statistics."""

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from glocal.distributed import all_sum, gather, rank, world_size
from glocal.heads import BatchNorm, batch_norm, projector, sync_batch_norms
from glocal.losses import vicreg_loss, vicregl_loss
from processes import on_processes

BATCH, SIZES = 8, (8, 8, 6)


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def mine(x):
    """This process's part of the batch."""
    return x.chunk(world_size())[rank()]


class Network(nn.Module):
    """A backbone with 2-D batch normalisation, and the two projectors of VICRegL."""

    def __init__(self, objective):
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
        )
        sync_batch_norms(self.backbone)
        self.whole = projector((6, 12, 10), "batch")
        self.parts = projector((6, 7, 5), "batch") if objective == "vicregl" else None

    def forward(self, views):
        maps = [self.backbone(view) for view in views]  # each view alone: VICRegL's batch statistics
        embeddings = [self.whole(m.mean(dim=(2, 3))) for m in maps]
        if self.parts is None:
            return embeddings
        return embeddings, [self.parts(m.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) for m in maps]


def train_once(objective):
    """Loss, averaged gradients and buffers after one backward pass on this process's part of the batch."""
    torch.manual_seed(0)
    network = Network(objective).double()
    parallel = DistributedDataParallel(network) if world_size() > 1 else network
    views = [mine(normal(BATCH, 3, size, size, seed=v)) for v, size in enumerate(SIZES)]
    centers = [mine(100 * normal(BATCH, size // 2, size // 2, 2, seed=10 + v)) for v, size in enumerate(SIZES)]
    if objective == "vicreg":
        loss = vicreg_loss(*parallel(views[:2]))
    else:
        loss = vicregl_loss(*parallel(views), centers, alpha=0.6, matches=(5, 3))
    loss.total.backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return loss.total.detach(), loss.terms, gradients, dict(network.named_buffers())


def normalise(sizes):
    """Outputs, gradients and buffers of a `BatchNorm` after two steps, `sizes[rank]` of the samples on each process."""
    torch.manual_seed(1)
    norm = BatchNorm(4, momentum=None).double()
    nn.init.normal_(norm.weight)
    reference = nn.BatchNorm1d(4, momentum=None).double()
    reference.load_state_dict(norm.state_dict())
    module = norm if world_size() > 1 else reference
    for step in range(2):
        x, weight = 50 + 3 * normal(sum(sizes), 4, seed=20 + step), normal(sum(sizes), 4, seed=30 + step)
        if world_size() > 1:
            x, weight = x.split(sizes)[rank()], weight.split(sizes)[rank()]
        x = x.clone().requires_grad_()
        out = module(x)
        module.zero_grad()
        (out.square() * weight).sum().backward()
    module.eval()
    frozen = module(x).detach()
    return out.detach(), x.grad, module.weight.grad, module.bias.grad, dict(module.named_buffers()), frozen


def normalise_maps(dtype):
    """Output and gradient of a `BatchNorm` without affine on maps (8, 4, 3, 3), channels-last, of so much precision."""
    norm = BatchNorm(4, affine=False).to(torch.promote_types(dtype, torch.float32))
    reference = nn.BatchNorm2d(4, affine=False).to(torch.promote_types(dtype, torch.float32))
    x, weight = (normal(8, 4, 3, 3, seed=seed) for seed in (60, 61))
    x, weight = (mine(each).to(dtype).contiguous(memory_format=torch.channels_last) for each in (1 + x, weight))
    out = (norm if world_size() > 1 else reference)(x.requires_grad_())
    (out.square() * weight).sum().backward()
    return out.detach().double(), x.grad.double()


def as_on_cuda(function, *arguments):
    """With PyTorch's kernels for `nn.SyncBatchNorm` on CUDA as their documentation has them, for double precision."""

    def elemt(x, weight, bias, mean, invstd, eps):
        out = (x - along(mean, x)) * along(invstd, x)
        return out if weight is None else out * along(weight, x) + along(bias, x)

    def reduce(grad, x, mean, invstd, weight, by_input, by_weight, by_bias):
        dims = [d for d in range(x.ndim) if d != 1]
        total, with_x = grad.sum(dims), (grad * (x - along(mean, x))).sum(dims)
        return total, with_x, with_x * invstd if by_weight else None, total if by_bias else None

    def backward_elemt(grad, x, mean, invstd, weight, total, with_x, counts):
        assert counts.dtype == torch.int32
        n, centred = counts.sum(), x - along(mean, x)
        out = grad - along(total, x) / n - centred * along(invstd.square() * with_x, x) / n
        return out * along(invstd if weight is None else invstd * weight, x)

    kernels = {"elemt": elemt, "backward_reduce": reduce, "backward_elemt": backward_elemt}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch_norm, "_cuda_kernels", lambda x: True)
        for name, kernel in kernels.items():
            patch.setattr(torch, f"batch_norm_{name}", kernel)
        return function(*arguments)


def along(values, x):
    """(C,) over the channels of x."""
    return values.view(1, -1, *[1] * (x.ndim - 2))


def collect():
    x = mine(normal(4, 3, 2, seed=40)).clone().requires_grad_()
    joined = gather(x)
    (joined**3).sum().backward()
    y = normal(3, seed=41 + rank()).requires_grad_()
    summed = all_sum(y)
    (summed**2).sum().backward()
    scalar = all_sum(torch.tensor(1.0 + rank()))
    return joined.detach(), x.grad, y.detach(), summed.detach(), y.grad, scalar


def cells_and_entropy():
    """VICReg of cells (B, N, D) against wholes (B, D), with entropy: loss, terms, and this process's gradients."""
    a, b = (mine(normal(*shape, seed=50)).clone().requires_grad_() for shape in ((8, 3, 5), (8, 5)))
    loss = vicreg_loss(a, b, entropy_weight=2.0)
    loss.total.backward()
    return loss.total.detach(), loss.terms, a.grad, b.grad


def everything():
    return {
        "cells": cells_and_entropy(),
        "vicreg": train_once("vicreg"),
        "vicregl": train_once("vicregl"),
        "even": normalise([4, 4]),
        "uneven": normalise([5, 2]),
        "maps": normalise_maps(torch.float64),
        "half": normalise_maps(torch.bfloat16),
        "uneven, on cuda": as_on_cuda(normalise, [5, 2]),
        "maps, on cuda": as_on_cuda(normalise_maps, torch.float64),
        "collect": collect(),
    }


@pytest.fixture(scope="module")
def two():
    return on_processes(2, everything)


@pytest.mark.parametrize("objective", ["vicreg", "vicregl"])
def test_losses_and_averaged_gradients_are_those_of_the_joined_batch(two, objective):
    total, terms, gradients, buffers = train_once(objective)
    torch.testing.assert_close(sum(result[objective][0] for result in two) / 2, total, rtol=1e-9, atol=1e-9)
    for result in two:
        _, their_terms, their_gradients, their_buffers = result[objective]
        torch.testing.assert_close(their_terms, terms, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(their_gradients, gradients, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(their_buffers, buffers, rtol=1e-9, atol=1e-9)
    assert all(gradient.abs().max() > 1e-6 for gradient in gradients.values())


def test_vicreg_of_cells_with_entropy_is_that_of_the_joined_batch(two):
    total, terms, *gradients = cells_and_entropy()
    for result in two:
        torch.testing.assert_close(result["cells"][1], terms, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(result["cells"][0], total, rtol=1e-9, atol=1e-9)
    for k, gradient in enumerate(gradients, start=2):  # both processes' losses are the joined one
        theirs = torch.cat([result["cells"][k] for result in two]) / 2
        torch.testing.assert_close(theirs, gradient, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("sizes", ["even", "uneven", "uneven, on cuda"])
def test_batch_norm_is_pytorchs_on_the_joined_batch(two, sizes):
    out, x_grad, weight_grad, bias_grad, buffers, frozen = normalise([4, 4] if sizes == "even" else [5, 2])
    close = lambda ours, theirs: torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)
    parts = [result[sizes] for result in two]
    close(torch.cat([part[0] for part in parts]), out)
    close(torch.cat([part[1] for part in parts]), x_grad)
    close(parts[0][2] + parts[1][2], weight_grad)
    close(parts[0][3] + parts[1][3], bias_grad)
    close(torch.cat([part[5] for part in parts]), frozen)
    for part in parts:
        close(part[4], buffers)


def test_batch_norm_of_maps_is_pytorchs_in_half_precision_too(two):
    exact = normalise_maps(torch.float64)
    for k, truth in enumerate(exact):
        for kind in ("maps", "maps, on cuda"):
            torch.testing.assert_close(torch.cat([result[kind][k] for result in two]), truth, rtol=1e-9, atol=1e-9)
    for k, (truth, usual) in enumerate(zip(exact, normalise_maps(torch.bfloat16), strict=True)):
        ours = torch.cat([result["half"][k] for result in two])
        assert (ours - truth).norm() < 1.5 * (usual - truth).norm()


def test_collectives_and_their_gradients(two):
    x = normal(4, 3, 2, seed=40)
    for r, result in enumerate(two):
        joined, x_grad, _, summed, y_grad, scalar = result["collect"]
        torch.testing.assert_close(joined, x)
        torch.testing.assert_close(x_grad, 2 * 3 * x.chunk(2)[r] ** 2)  # both processes' gradients, summed
        torch.testing.assert_close(summed, two[0]["collect"][2] + two[1]["collect"][2])
        torch.testing.assert_close(y_grad, 2 * 2 * summed)
        assert scalar == 3


def test_one_process_needs_no_process_group():
    x = torch.ones(2, 3, requires_grad=True)
    assert (world_size(), rank()) == (1, 0)
    assert gather(x) is x
    assert all_sum(x) is x


def test_the_backward_of_joined_statistics_is_told_them_all(monkeypatch):
    """CUDA's kernel for an evaluation's backward asks for the saved mean and deviation, which the CPU's ignores."""
    seen = []

    class Op:
        def __call__(self, *arguments):
            seen.append(arguments)
            return native(*arguments)

    native = torch.ops.aten.native_batch_norm_backward
    monkeypatch.setattr(torch.ops.aten, "native_batch_norm_backward", Op())
    x = torch.randn(8, 4, requires_grad=True)
    batch_norm._Joined.apply(x, None, None, 1e-5)[0].square().sum().backward()
    ((_, _, _, mean, variance, saved_mean, saved_deviation, *_),) = seen
    torch.testing.assert_close(saved_mean, mean)
    torch.testing.assert_close(saved_deviation, (variance + 1e-5).rsqrt())
