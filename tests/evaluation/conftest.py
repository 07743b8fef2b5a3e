"""Small encoders and collections whose right answers are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glocal.data import ArraySource, Unreadable
from glocal.features import Features
from glocal.views import grid_centers


class Cells(nn.Module):
    """An encoder whose feature of each 8×8 cell is its mean colour, squared, and whose pooled feature is their mean."""

    name, mean, std, image_size, stride = "cells", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 32, 8

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.drop = nn.Dropout(0.5)  # training mode would show

    def forward(self, x):
        colour = self.drop(nn.functional.avg_pool2d(x, self.stride)) * self.scale
        maps = torch.cat([colour, colour.square()], 1)
        height, width = maps.shape[-2:]
        positions = grid_centers(height, width, *x.shape[-2:]).flatten(0, 1)
        return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2), positions, (height, width))


class Scenes(ArraySource):
    """Images with masks; some may be unreadable."""

    has_masks = True

    def __init__(self, images, masks, *, mask_classes=None, ignore_index=None, broken=(), labels=None):
        super().__init__(images, labels, name="scenes")
        self.masks, self.mask_classes, self.ignore_index = masks, mask_classes, ignore_index
        self.broken = broken

    def open(self, i):
        if i in self.broken:
            raise Unreadable("truncated")
        return super().open(i)

    def mask(self, i):
        return self.masks[i]


def coloured(count, seed, classes=3, side=40):
    """(N, side, side, 3) noisy images of one of `classes` dominant colours, and their labels."""
    draw = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    palette = np.array([[200, 60, 60], [60, 200, 60], [60, 60, 200], [200, 200, 60]])
    images = palette[labels][:, None, None] + draw.normal(0, 30, (count, side, side, 3))
    return images.clip(0, 255).astype(np.uint8), labels


def blocks(count, seed, side=40):
    """Scenes of two colours with a vertical border, their masks (0 left, 1 right), and a strip of 7 to ignore."""
    draw = np.random.default_rng(seed)
    images, masks = np.zeros((count, side, side, 3), np.uint8), np.zeros((count, side, side), np.uint8)
    for i, border in enumerate(draw.integers(side // 4, 3 * side // 4, count)):
        images[i, :, :border], images[i, :, border:] = (200, 40, 40), (40, 40, 200)
        masks[i, :, border:] = 1
        masks[i, :, border - 4 : border + 4] = 7
    return images, masks


@pytest.fixture
def made():
    """The pieces above."""
    return SimpleNamespace(
        Cells=Cells, Scenes=Scenes, coloured=coloured, blocks=blocks, ArraySource=ArraySource, Image=Image
    )
