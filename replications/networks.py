"""Networks that are small enough to train hundreds of on a processor; named by width and stride or patch.

`rn8_w24_s16` has 24, 48, 96 and 192 channels in its four stages of one block each, and a stride of 16 pixels: a 3×3
stem of stride 2, no max-pooling, stages of stride (1, 2, 2, 2). `_s8` has stages of stride (1, 2, 2, 1).
"""

from __future__ import annotations

from functools import partial
from typing import Any

from timm.models.mlp_mixer import Affine, MlpMixer, ResBlock
from timm.models.resnet import BasicBlock, ResNet
from timm.models.vision_transformer import VisionTransformer
from timm.models.xcit import Xcit
from torch import nn

from glocal.backbones.flexivit import FlexiViT
from glocal.backbones.navit import NaViT
from glocal.backbones.rf_resnet import set_strides
from glocal.backbones.sobel import Sobel
from glocal.backbones.vit22b import vit22b

CONFIG = {"input_size": (3, 32, 32), "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def rn8(
    width: int, strides: tuple[int, int, int, int], *, kernels: tuple[int, ...] = (3,) * 8, num_classes: int = 0
) -> ResNet:
    """A stem and four blocks.

    Args:
        width: channels of the stem and the first stage; each further stage has twice as many.
        strides: of the stages.
        kernels: of the convolutions after the stem, 3 or 1: with ones of 1 a cell sees less of the image.
        num_classes: of timm's classifier, 0 for none.
    """
    block: Any = BasicBlock  # timm's annotation asks for an instance
    model = ResNet(block, (1, 1, 1, 1), channels=tuple(width * 2**k for k in range(4)), num_classes=num_classes)
    model.pretrained_cfg = CONFIG  # for the mean and the deviation of pixels
    model.conv1, model.bn1, model.maxpool = conv(3, width, 3, 2), nn.BatchNorm2d(width), nn.Identity()
    model.layer1[0].downsample = None
    channels = [width, *(width * 2 ** (k // 2) for k in range(8))]
    for k, kernel in enumerate(kernels):
        setattr(getattr(model, f"layer{1 + k // 2}")[0], f"conv{1 + k % 2}", conv(channels[k], channels[k + 1], kernel))
    set_strides(model, strides, 2)
    return model


def sobel_rn8(width: int, strides: tuple[int, int, int, int], *, num_classes: int = 0) -> ResNet:
    """The same on edges, without colour."""
    model = rn8(width, strides, num_classes=num_classes)
    model.conv1 = nn.Sequential(Sobel(), conv(2, width, 3, 2))
    return model


def vit(width: int, depth: int, patch: int, *, num_classes: int = 0, img_size: int | None = None) -> Any:
    """A vision transformer of heads of 32 channels."""
    size = {"img_size": img_size or 32, "patch_size": patch, "embed_dim": width, "depth": depth}
    model = VisionTransformer(**size, num_heads=width // 32, num_classes=num_classes, dynamic_img_size=True)
    model.pretrained_cfg = CONFIG
    return model


def flexivit(width: int, depth: int, *, patch: int = 8, num_classes: int = 0) -> Any:
    """The same with patches that can be set."""
    model: Any = FlexiViT(patch=patch, embed_dim=width, depth=depth, num_heads=width // 32, num_classes=num_classes)
    model.pretrained_cfg = CONFIG
    return model


def xcit(width: int, depth: int, patch: int, *, num_classes: int = 0, img_size: int | None = None) -> Any:
    """XCiT of heads of 32 channels, with two layers of class attention."""
    size: dict[str, Any] = {"img_size": img_size or 32, "patch_size": patch, "embed_dim": width, "depth": depth}
    model: Any = Xcit(**size, num_heads=width // 32, num_classes=num_classes)
    model.pretrained_cfg = CONFIG
    return model


def resmlp(width: int, depth: int, patch: int, *, num_classes: int = 0, img_size: int | None = None) -> Any:
    """ResMLP, for images of one size."""
    size: dict[str, Any] = {"img_size": img_size or 32, "patch_size": patch, "embed_dim": width, "num_blocks": depth}
    parts: dict[str, Any] = {"block_layer": partial(ResBlock, init_values=0.1), "norm_layer": Affine, "mlp_ratio": 4}
    model: Any = MlpMixer(**size, **parts, num_classes=num_classes)
    model.pretrained_cfg = CONFIG
    return model


def parallel(width: int, depth: int, patch: int, **options: Any) -> Any:
    """ViT-22B's blocks, of heads of 32 channels."""
    model = vit22b(width, depth, width // 32, patch, **options)
    model.pretrained_cfg = CONFIG
    return model


def conv(channels: int, out: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """Without bias, initialised as timm does it."""
    made = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
    nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made


vit_w64_p4 = partial(vit, 64, 4, 4)
vit_w64_p8 = partial(vit, 64, 4, 8)
flexivit_w64 = partial(flexivit, 64, 4)
xcit_w64_p8 = partial(xcit, 64, 4, 8)
resmlp_w64_p4 = partial(resmlp, 64, 4, 4)
vit22b_w64_p4 = partial(parallel, 64, 4, 4)
vit22b_w64_p4_no_qk_norm = partial(parallel, 64, 4, 4, qk_norm=False)
sobel_rn8_w16_s8 = partial(sobel_rn8, 16, (1, 2, 2, 1))
navit_w64_p8 = partial(NaViT, 64, 2, 4)
rn8_w16_s8_rf19 = partial(rn8, 16, (1, 2, 2, 1), kernels=(3, 1, 3, 1, 3, 1, 1, 1))
rn8_w8_s8 = partial(rn8, 8, (1, 2, 2, 1))
rn8_w16_s16 = partial(rn8, 16, (1, 2, 2, 2))
rn8_w24_s16 = partial(rn8, 24, (1, 2, 2, 2))
rn8_w16_s8 = partial(rn8, 16, (1, 2, 2, 1))
rn8_w24_s8 = partial(rn8, 24, (1, 2, 2, 1))
