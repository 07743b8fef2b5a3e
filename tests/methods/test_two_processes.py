"""Every method on two processes, with half of the batch each, is the method on one, and keeps the same on both."""

from __future__ import annotations

import warnings

import pytest
import torch
from support import random_view
from torch.nn.parallel import DistributedDataParallel

from glocal.backbones import build_backbone
from glocal.data import open_source
from glocal.distributed import rank, world_size
from glocal.heads import sync_batch_norms
from glocal.methods import DeepClusterV2, method_class, method_names, resolve_options
from glocal.training.buffers import check_buffers
from glocal.views import Appearance, Batch, PlainImages, Recipe, ViewLoader
from processes import on_processes

IMAGES, SIZE = 8, 48
FEWER: dict[str, dict] = {
    "swav": {"queue": 16, "queue_from": 0.0},
    "nnclr": {"queue": 20},
    "flow": {"guide": "own"},
    "irmae": {"code": 8},
    "deepercluster": {"rotate": False},  # each process draws the turns of its own images
}
BACKBONES = {"msn": "test_vit", "loca": "test_vit"}  # that drop tokens
BACKBONES |= {"flow": "tiny:unet", "dcgan": "tiny:strided"}  # that give velocities, that have no BatchNorm


def build(name):
    """The method, as narrow as it goes, and its small crops smaller than the others."""
    cls = method_class(name)
    narrow = {"image_size": SIZE, "small_crops": 2, "small_size": 32, "prototypes": 12, "clusters": 8, "outputs": 12}
    narrow |= {"hidden": 16, "bottleneck": 8, "components": 3, "support_classes": 3, "projector": (16, 8)}
    narrow |= {"predictor": (16, 8), "local_projector": (8, 8), **cls.needs, **FEWER.get(name, {})}
    known = resolve_options(cls, "small", IMAGES, {})
    torch.manual_seed(0)
    encoder = build_backbone(BACKBONES.get(name, "tiny:Net"), image_size=SIZE, pool=cls.pool)
    taken = {option: value for option, value in narrow.items() if type(known.get(option)) is type(value)}
    method = cls(encoder, **known | taken)
    share = lambda whole: whole.chunk(world_size())[rank()]  # each process takes its own of what is drawn for all
    if name == "flow":
        draw = method.draw
        method.draw = lambda x: tuple(map(share, draw(x.new_empty(len(x) * world_size(), *x.shape[1:]))))
    if name == "dcgan":
        latents = method.draw
        method.draw = lambda x: share(latents(x.new_empty(len(x) * world_size())))
    return method


def batch_of(method, seed):
    """This process's part of a batch of random pixels; for PAWS with labelled images."""
    parts = [
        random_view(IMAGES, crop.size, 10 * seed + n, torch.float64, flip=n > 0)
        for n, crop in enumerate(method.recipe.views)
    ]
    batch = Batch(parts, torch.arange(IMAGES).chunk(world_size())[rank()])
    if method.recipe.support:
        label = torch.tensor([1, 1, 4, 4, 7, 7]).chunk(world_size())[rank()]
        batch.support = Batch([random_view(6, SIZE, 99, torch.float64)], torch.arange(len(label)), label=label)
    return batch


def plan_of(method):
    """What a clustering method decides before an epoch, each process having looked at its part of the images."""
    if not hasattr(method, "before_epoch"):
        return None
    loader = ViewLoader(open_source("parts:n=24,size=40"), Recipe(()), batch_size=6, seed=0)
    appearance = Appearance(method.recipe, method.encoder.mean, method.encoder.std, 0)
    bank = PlainImages(loader, SIZE, appearance, device=torch.device("cpu"), rank=rank(), world_size=world_size())
    plan = method.before_epoch(bank)
    if isinstance(method, DeepClusterV2):  # deals its images out, so that k-means starts elsewhere: fix its outcome
        for head in method.prototypes:
            torch.nn.init.normal_(head.weight, generator=torch.Generator().manual_seed(1))
        plan.targets = torch.arange(plan.targets.numel()).view_as(plan.targets) % 8
    return plan


def second_step(name):
    """Loss, averaged gradients and buffers of the second of two batches: queues, centres and memories count by then."""
    method = build(name)
    plan = plan_of(method)
    method = sync_batch_norms(method.double())
    parallel = DistributedDataParallel(method, broadcast_buffers=False) if world_size() > 1 else method
    for seed in (0, 1):
        method.zero_grad()
        torch.manual_seed(seed)
        batch = batch_of(method, seed)
        loss = parallel(plan.with_targets(batch) if plan else batch).total
        loss.backward()
        if hasattr(method, "after_step"):
            method.after_step(0.5)
    with warnings.catch_warnings(action="error"):  # rounding, too, would be our fault on one machine
        check_buffers(method)
    grads = {name: p.grad for name, p in method.named_parameters() if p.grad is not None}
    return loss.detach(), grads, dict(method.named_buffers())


def all_methods():
    return {name: second_step(name) for name in method_names("images")}


@pytest.fixture(scope="module")
def two():
    return on_processes(2, all_methods)


@pytest.mark.slow
@pytest.mark.distributed(*method_names("images"))
@pytest.mark.parametrize("name", method_names("images"))
def test_loss_gradients_and_buffers_are_those_of_the_joined_batch(two, name):
    loss, grads, buffers = second_step(name)
    close = lambda ours, theirs, atol=1e-8: torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=atol)
    close(sum(result[name][0] for result in two) / 2, loss)
    for result in two:
        close(result[name][1], grads)
        for buffer, values in buffers.items():  # memories are filled before training, in single precision
            close(result[name][2][buffer], values, 1e-6 if "memory" in buffer else 1e-8)
    assert any(gradient.abs().max() > 1e-6 for gradient in grads.values())
