"""RF-ResNets of 8 convolutions in four blocks, small enough to train many of on a processor.

`thin_rf195` has the strides of a standard ResNet (2×2 cells of 64 px), `thin_rf79` strides for a smaller receptive
field (8×8 cells), and the same parameters but for the stem's.
"""

from __future__ import annotations

from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from glocal.backbones.rf_resnet import set_strides
from glocal.backbones.sobel import Sobel

CONFIG = {"input_size": (3, 96, 96), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def thin_resnet(num_classes: int) -> ResNet:
    block: Any = BasicBlock  # timm's annotation asks for an instance
    model = ResNet(block, (1, 1, 1, 1), channels=(32, 64, 128, 256), num_classes=num_classes)
    model.pretrained_cfg = CONFIG  # for the mean and the deviation of pixels
    return model


def thin_rf195(num_classes: int = 0) -> ResNet:
    """7×7 stem of stride 2, max-pooling, stages of stride (1, 2, 2, 2)."""
    return thin_resnet(num_classes)


def sobel_thin_rf195(num_classes: int = 0) -> ResNet:
    """`thin_rf195` on edges, without colour."""
    model = thin_resnet(num_classes)
    first = nn.Conv2d(2, 64, 7, 2, 3, bias=False)
    nn.init.kaiming_normal_(first.weight, mode="fan_out", nonlinearity="relu")
    model.conv1 = nn.Sequential(Sobel(), first)
    return model


def thin_rf79(num_classes: int = 0) -> ResNet:
    """3×3 stem of stride 2, no max-pooling, stages of stride (1, 2, 2, 1)."""
    model = thin_resnet(num_classes)
    model.conv1 = nn.Conv2d(3, 64, 3, 2, 1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()
    set_strides(model, (1, 2, 2, 1), 2)
    return model
