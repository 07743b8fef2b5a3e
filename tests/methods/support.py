"""What the tests of MSN, PAWS and LOCA share: tiny methods, and batches with geometry and labelled images."""

import numpy as np
import torch

from glocal.backbones import build_backbone
from glocal.distributed import rank, world_size
from glocal.methods import method_class
from glocal.views import Batch, View
from glocal.views.geometry import crop_affine

TINY = {
    "msn": {"image_size": 64, "small_size": 32, "small_crops": 2, "projector": (16, 16, 8), "prototypes": 12},
    "paws": {"image_size": 32, "small_size": 16, "small_crops": 1, "projector": (16, 8), "support_classes": 3},
    "loca": {"image_size": 64, "small_size": 32, "small_crops": 2, "clusters": 12, "hidden": 16, "bottleneck": 8},
}


def build(name, seed=0, backbone=None, **options):
    torch.manual_seed(seed)
    backbone = backbone or ("test_resnet" if name == "paws" else "test_vit")
    encoder = build_backbone(backbone, pool=method_class(name).pool, image_size=64 if "vit" in backbone else None)
    return method_class(name)(encoder, **{**TINY[name], **options})


def random_view(images, size, seed, dtype=torch.float32, flip=True):
    """Random pixels cut from random boxes of a source of 100×80 pixels, mirrored or not; this process's part."""
    rng = np.random.default_rng(seed)
    boxes = np.sort(rng.uniform(0, [[100], [80]], (images, 2, 2)), axis=2).transpose(0, 2, 1).reshape(images, 4)
    flips = rng.random(images) < 0.5 * flip
    affine = np.stack([crop_affine(box, mirrored, (size, size)) for box, mirrored in zip(boxes, flips, strict=True)])
    pixels = torch.from_numpy(rng.standard_normal((images, 3, size, size))).to(dtype)
    part = slice(rank() * images // world_size(), (rank() + 1) * images // world_size())
    return View(pixels[part], torch.from_numpy(affine)[part])


def make_batch(name, images, dtype=torch.float32, seed=0):
    """A batch of the method's views; for PAWS with 6 labelled images of 3 classes."""
    sizes = {"msn": (64, 64, 32, 32), "paws": (32, 32, 16), "loca": (64, 64, 32, 32)}[name]
    parts = [random_view(images, size, 10 * seed + n, dtype, flip=n > 0) for n, size in enumerate(sizes)]
    batch = Batch(parts, torch.arange(len(parts[0].pixels)))
    if name == "paws":
        label = torch.tensor([1, 1, 4, 4, 7, 7]).chunk(world_size())[rank()]
        batch.support = Batch([random_view(6, 32, 99, dtype)], torch.arange(len(label)), label=label)
    return batch
