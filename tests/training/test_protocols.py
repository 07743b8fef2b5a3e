"""The loop trains on what is no image: a loader and an appearance of one's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from glocal.fabric import Fabric
from glocal.losses import Loss
from glocal.methods import Optimization
from glocal.run import Run
from glocal.training import Schedule, fit
from glocal.views import Batch


class Sentences:
    """Sums to be learnt, in batches without a view."""

    steps_per_epoch = 5
    closed = False

    def epoch(self, epoch, start=0, order=None, /):
        for step in range(start, self.steps_per_epoch):
            x = torch.randn(4, 3, generator=torch.Generator().manual_seed(100 * epoch + step))
            yield Batch([], torch.arange(4), extra={"words": x})

    def close(self):
        self.closed = True


class Method(nn.Module):
    """Learns what twice the sum of the words is."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.encoder = nn.Linear(3, 1)

    def forward(self, batch):
        assert batch.views == []
        error = self.encoder(batch.extra["words"]) - batch.extra["sums"]
        return Loss.of({"error": error.square().mean()})


def appearance(batch, epoch, device):
    batch.extra["sums"] = 2 * batch.extra["words"].sum(1, keepdim=True)
    return batch.to(device)


def train(run, method, loader, **changes):
    schedule = Schedule(epochs=20, max_steps=None, batch_size=4, accumulate=1, lr=0.05, clip=0.0, monitor_every=100)
    spec = Optimization("sgd", lr=0.05, weight_decay=0.0, warmup_epochs=0.0)
    fabric = Fabric(accelerator="cpu")
    fabric.launch()
    settings = {"optimization": spec, "schedule": schedule, "seed": 0, "quiet": True}
    return fit(fabric, method, loader, appearance, Run(run), **settings | changes)


def test_what_the_loader_gives_is_learnt(tmp_path):
    method, loader = Method(), Sentences()
    at = train(tmp_path, method, loader)
    assert (at.step, at.epoch, loader.closed) == (100, 20, True)
    torch.testing.assert_close(method.encoder.weight, torch.full((1, 3), 2.0), atol=0.1, rtol=0)
    losses = [line["loss"] for line in Run(tmp_path).metrics()]
    assert losses[-1] < 0.01 * losses[0]


def test_a_method_that_looks_at_all_images_asks_for_a_loader_of_images(tmp_path):
    method = Method()
    method.before_epoch = lambda bank: None
    with pytest.raises(AssertionError, match="before_epoch look at images"):
        train(tmp_path, method, Sentences())
