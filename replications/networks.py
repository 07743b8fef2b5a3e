"""ResNets of 8 convolutions, thin enough to train hundreds of on a processor; named by width and stride.

`rn8_w24_s16` has 24, 48, 96 and 192 channels in its four stages of one block each, and a stride of 16 pixels: a 3×3
stem of stride 2, no max-pooling, stages of stride (1, 2, 2, 2). `_s8` has stages of stride (1, 2, 2, 1).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.resnet import BasicBlock, ResNet
from torch import nn

from glocal.backbones.rf_resnet import set_strides

CONFIG = {"input_size": (3, 32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def rn8(width: int, strides: tuple[int, int, int, int], *, num_classes: int = 0) -> ResNet:
    """A stem and four blocks.

    Args:
        width: channels of the stem and the first stage; each further stage has twice as many.
        strides: of the stages.
        num_classes: of timm's classifier, 0 for none.
    """
    block: Any = BasicBlock  # timm's annotation asks for an instance
    model = ResNet(block, (1, 1, 1, 1), channels=tuple(width * 2**k for k in range(4)), num_classes=num_classes)
    model.pretrained_cfg = CONFIG  # for the mean and the deviation of pixels
    model.conv1, model.bn1, model.maxpool = conv(3, width, 3, 2), nn.BatchNorm2d(width), nn.Identity()
    model.layer1[0].conv1, model.layer1[0].downsample = conv(width, width, 3), None
    set_strides(model, strides, 2)
    return model


def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias, initialised as timm does it."""
    made = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


rn8_w16_s16 = partial(rn8, 16, (1, 2, 2, 2))
rn8_w24_s16 = partial(rn8, 24, (1, 2, 2, 2))
rn8_w16_s8 = partial(rn8, 16, (1, 2, 2, 1))
rn8_w24_s8 = partial(rn8, 24, (1, 2, 2, 1))
