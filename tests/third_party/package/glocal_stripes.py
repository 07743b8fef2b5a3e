"""What somebody else adds to Glocal: a method that keeps a buffer, a backbone, a source, a task and a command."""

import numpy as np
import torch
from torch import nn

from glocal.data import RawImage, open_source
from glocal.distributed import all_sum, world_size
from glocal.evaluation import task
from glocal.heads import projector
from glocal.losses import Loss, invariance, variance_hinge
from glocal.methods import Optimization, encode
from glocal.views import two_views


class Centred(nn.Module):
    """Two views agree and stay spread out, seen from the running mean of all embeddings."""

    def __init__(self, backbone, *, image_size: int = 224, width: int = 32, memory: float = 0.9):
        super().__init__()
        self.encoder, self.recipe, self.memory = backbone, two_views(image_size), memory
        self.projector = projector((backbone.dim, width), norm=backbone.norm)
        self.optimization = Optimization("adamw", lr=1e-3, weight_decay=0.05)
        self.register_buffer("center", torch.zeros(width))

    def forward(self, batch):
        a, b = (self.projector(f.pooled).float() for f in encode(self.encoder, batch.views))
        mean = all_sum(torch.cat([a, b]).detach().mean(0)) / world_size()
        self.center.lerp_(mean, 1 - self.memory)
        spread = variance_hinge(a - self.center) + variance_hinge(b - self.center)
        return Loss.of({"invariance": invariance(a, b), "variance": spread})


class StripeNet(nn.Module):
    """Two convolutions, a cell for every 8 pixels."""

    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 16, 4, stride=4), nn.Conv2d(16, 32, 2, stride=2)

    def forward_features(self, x):
        return self.body(self.stem(x).relu())

    def forward_head(self, x, pre_logits=True):
        return x.mean((2, 3))


class Stripes:
    """`stripes` or `stripes:NUMBER`: images of lying and of standing stripes, of random colours and width."""

    splits = ("train", "test")
    classes = ("lying", "standing")

    def __init__(self, number="64", split=None):
        self.seed, self.labels = split == "test", np.arange(int(number)) % 2

    def __len__(self):
        return len(self.labels)

    def key(self, i):
        return f"{self.classes[self.labels[i]]} {i}"

    def open(self, i):
        draw = np.random.default_rng((self.seed, i))
        stripe = np.arange(32) // draw.integers(2, 6) % 2
        image = draw.integers(0, 256, (2, 3), dtype=np.uint8)[np.broadcast_to(stripe, (32, 32))]
        return RawImage(image if self.labels[i] else image.transpose(1, 0, 2))


@task(needs={"labels"}, main="distance")
def separation(context, *, power: float = 1.0) -> dict:
    """How far apart the means of the classes are, in standard deviations."""
    bank = context.bank("test")
    labels = context.labels(bank)
    means = torch.stack([bank.pooled[labels == k].mean(0) for k in labels.unique()])
    return {"distance": float((means[0] - means[1]).norm() / bank.pooled.std(0).norm()) ** power}


def count(data: str, *, split: str | None = None) -> None:
    """Say how many images there are."""
    print(f"{len(open_source(data, split=split))} images")
