"""What the tests of networks share: small ones, of which only the shape is looked at."""

import pytest
import timm
from torch import Tensor

NARROW = {"resnet": {"channels": (8, 8, 8, 8)}, "convnext": {"dims": (8, 8, 8, 8)}, "swin": {"embed_dim": 24}}


@pytest.fixture
def undrawn(monkeypatch):
    """Weights are all .01, since drawing them takes most of the time that building takes."""
    for draw in ("normal_", "uniform_"):
        monkeypatch.setattr(Tensor, draw, lambda tensor, *_, **__: tensor.fill_(0.01))


@pytest.fixture
def thin(monkeypatch):
    """timm's networks of these kinds are built with few channels: where their cells look depends on none."""
    made = timm.create_model

    def create(name, *args, **options):
        few = next((NARROW[kind] for kind in NARROW if kind in name), {})
        return made(name, *args, **few | options)

    monkeypatch.setattr(timm, "create_model", create)
