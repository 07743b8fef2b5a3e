"""What the tests of the joint-embedding methods share: batches, tiny methods, a few steps of training."""

import torch

from glocal.backbones import build_backbone
from glocal.methods import BYOL, COBYOL, CODINO, DINO, COMoCoV3, COVICReg, MoCoV3, VICReg
from glocal.views import Batch, View

PAIRS = {"byol": (BYOL, COBYOL), "dino": (DINO, CODINO), "mocov3": (MoCoV3, COMoCoV3), "vicreg": (VICReg, COVICReg)}
TINY = {
    "byol": {"projector": (16, 8), "predictor": (16, 8)},
    "mocov3": {"projector": (16, 8), "predictor": (16, 8), "temperature": 0.5},
    "dino": {"hidden": 16, "bottleneck": 8, "outputs": 12, "small_crops": 2, "small_size": 16},
    "vicreg": {"projector": (16, 8)},
}


def views(batch, sizes=(32, 32), seed=0, dtype=torch.float32):
    """Random pixels."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for size in sizes:
        pixels = torch.randn(batch, 3, size, size, generator=generator).to(dtype)
        parts.append(View(pixels, torch.zeros(len(pixels), 2, 3)))
    return Batch(parts, torch.arange(len(parts[0].pixels)))


def sizes(name):
    return (32, 32, 16, 16) if name == "dino" else (32, 32)


def build(name, co=False, backbone="test_resnet", seed=0, **options):
    torch.manual_seed(seed)
    encoder = build_backbone(backbone, pool="mean", **({"image_size": 32} if "vit" in backbone else {}))
    return PAIRS[name][co](encoder, image_size=32, **{**TINY[name], **options})


def same_gradients(method, ours, theirs):
    """Both scalars equal, and their gradients to all that learns."""
    torch.testing.assert_close(ours, theirs)
    learning = [p for n, p in method.named_parameters() if "teacher" not in n.split(".")]
    for a, b in zip(*(torch.autograd.grad(loss, learning) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9)


def train(method, name, steps, batch=4):
    optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.05, momentum=0.9)
    for step in range(steps):
        torch.manual_seed(step)
        method(views(batch, sizes(name), seed=step)).total.backward()
        optimizer.step()
        optimizer.zero_grad()
        if hasattr(method, "after_step"):
            method.after_step((step + 1) / 10)
    return method
