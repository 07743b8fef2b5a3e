"""Networks for tests of what stands around them: "tiny:Net", three convolutions, and others, narrow."""

from functools import partial

import timm
from torch import nn

from glocal.backbones.strided import Strided
from glocal.backbones.unet import UNet


class Net(nn.Module):
    """A cell of 48 channels for every 8 pixels; its batch normalisations learn statistics, as a ResNet's do."""

    pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            *(nn.Conv2d(3, 16, 4, 4, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
            *(nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32), nn.ReLU()),
            *(nn.Conv2d(32, 48, 3, 1, 1, bias=False), nn.BatchNorm2d(48), nn.ReLU()),
        )

    def forward_features(self, x):
        return self.body(x)

    def forward_head(self, x, pre_logits=True):
        return x.mean((2, 3))


class Shallow(Net):
    """Its first convolution alone, a cell for every 4 pixels: compiling takes seconds a layer."""

    def __init__(self):
        super().__init__()
        self.body = self.body[:3]


unet = partial(UNet, (8, 16, 16))
strided = partial(Strided, (8, 16, 32, 32))
naflex = partial(timm.create_model, "naflexvit_base_patch16_gap", embed_dim=64, depth=2, num_heads=2)
