"""No step of any method waits for a GPU: seen on fake CUDA tensors, which have shapes and devices, but no values."""

from __future__ import annotations

import traceback
from collections import Counter
from functools import cache

import pytest
import torch
from test_two_processes import IMAGES, build, plan_of
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from glocal.methods import method_names
from glocal.training.optimizers import build_optimizer, clip_per_parameter
from glocal.views import Appearance, Batch, Crop, Recipe, View

WAITING = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "_linalg_check_errors", "equal"}
"""Operations whose outcome decides a shape or a branch, which the processor has to know."""


class Watch(TorchDispatchMode):
    """Inside a `FakeTensorMode`: what waits for the GPU, with the line that asks for it, and how much is sent there.

    What concerns main memory alone is really computed.
    """

    def __init__(self, fake: bool = True) -> None:
        super().__init__()
        self.fake, self.waits, self.uploads = fake, Counter(), 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func.overloadpacket.__name__
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        on_cpu = torch.device(kwargs.get("device") or "cpu").type == "cpu"
        if self.fake and on_cpu and not any(isinstance(x, FakeTensor) for x in tensors):
            with unset_fake_temporarily():
                return func(*args, **kwargs)
        there = not self.fake or any(x.is_cuda for x in tensors)
        if there and name in (WAITING | {"_local_scalar_dense"}):
            self.waits[f"{name}{_asked_by()}"] += 1
        if there and name in ("index", "index_put", "index_put_", "_index_put_impl_"):
            for x in args[1]:
                if x is not None and (x.dtype == torch.bool or (self.fake and not x.is_cuda)):
                    self.waits[f"{name} by {x.dtype} on {x.device.type}{_asked_by()}"] += 1
        if self.fake and name in ("_to_copy", "copy_"):
            self._copy(name, args, kwargs)
        return func(*args, **kwargs)

    def _copy(self, name, args, kwargs) -> None:
        source, target = args[name == "copy_"].device, args[0].device
        target = torch.device(kwargs.get("device") or target) if name == "_to_copy" else target
        if source.type == target.type or (source.type == "cpu" and args[name == "copy_"].ndim == 0 and name == "copy_"):
            return
        self.uploads += target.type == "cuda"
        asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
        if target.type == "cpu" or not asynchronous:
            self.waits[f"copy to {target.type}{_asked_by()}"] += 1


def _asked_by() -> str:
    ours = [frame for frame in traceback.extract_stack() if "/glocal/" in frame.filename]
    return f": {ours[-1].filename.rpartition('/')[2]}, {ours[-1].line}" if ours else ""


def on_fake_cuda(method: nn.Module) -> None:
    """Put everything there, in place; `Module.to` cannot."""
    for module in method.modules():
        for name, x in module._parameters.items():
            if x is not None:
                there = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(there, requires_grad=x.requires_grad)
        for name, x in module._buffers.items():
            if x is not None:
                module._buffers[name] = torch.empty(x.shape, dtype=x.dtype, device="cuda")


def served(crops, **fields) -> Batch:
    """A batch as a loader hands it over."""
    size = lambda crop: (IMAGES, crop.size, crop.size, 3)
    maps = torch.tensor([[1.0, 0.0, 3.0], [0.0, 1.0, 5.0]]).repeat(IMAGES, 1, 1)
    views = [View(torch.zeros(size(crop), dtype=torch.uint8).permute(0, 3, 1, 2), maps) for crop in crops]
    return Batch(views, torch.arange(IMAGES), key=torch.arange(IMAGES), **fields)


ALIKE = {"co-vicreg", "dclw", "dcl", "nnclr", "seer"}  # whose steps are those of others here, for these questions
UNFIT = {"dcgan"}  # which takes a gradient within its step: fakes have no engine for it


@cache
def waits_of_a_view(crop: Crop) -> Counter:
    """What the appearance of such a view, from its bytes, waits for; many methods have views that are alike."""
    appearance = Appearance(Recipe((crop,)), (0.5,) * 3, (0.25,) * 3, 0)
    with FakeTensorMode(allow_non_fake_inputs=True), Watch() as view:
        appearance(served([crop]), 0, "cuda")
    assert view.uploads <= 5  # its pixels, its map, its parameters, and the batch's numbers
    return view.waits


@pytest.mark.parametrize("name", sorted({*method_names("images")} - ALIKE - UNFIT))
def test_a_step_asks_nothing_of_the_gpu_and_sends_little(name, monkeypatch):
    monkeypatch.setattr("glocal.views.appearance.upload", lambda batch, device: batch.to(device, non_blocking=True))
    method = build(name)
    plan = plan_of(method)
    batch = served(method.recipe.views)
    crops = len(method.recipe.views)
    if method.recipe.support:
        labels = torch.arange(IMAGES) // 3
        batch.support = served(method.recipe.support.views, label=labels, classes=len(labels.unique()))
        crops += len(method.recipe.support.views)
    batch = plan.with_targets(batch) if plan else batch
    for crop in (*method.recipe.views, *(method.recipe.support.views if method.recipe.support else ())):
        assert waits_of_a_view(crop.but(scale=(1, 1))) == {}
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0)
    finished = appearance(batch, 0)
    after_step = getattr(method, "after_step", lambda progress: None)
    loss = method(finished).total
    with Watch(fake=False) as backward:  # the same operations on any device; fakes have no engine
        loss.backward()
    after_step(0.5)
    assert not {wait: n for wait, n in backward.waits.items() if "_local_scalar" not in wait}
    with FakeTensorMode(allow_non_fake_inputs=True):
        on_fake_cuda(method)
        optimizer = build_optimizer(method, method.optimization, 0.1)
        with Watch() as views:
            there = appearance(finished, 0, "cuda")
        with Watch() as step:
            assert method(there).total.is_cuda
            for parameter in method.parameters():
                parameter.grad = torch.empty_like(parameter) if parameter.requires_grad else None
            clip_per_parameter(method.parameters(), 3.0)
            optimizer.step()
            after_step(0.5)
    assert views.waits | step.waits == {}
    # of each view its pixels and its map; of each batch its numbers, and labels or targets
    assert views.uploads <= 2 * crops + 4
    assert step.uploads <= 2
