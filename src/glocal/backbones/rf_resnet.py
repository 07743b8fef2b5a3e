"""ResNets of several receptive fields, for CO-SSL (Aubret, Teulière, Triesch 2025, arXiv 2501.02860).

`co_*` are our reading of the paper's RF-ResNets, whose code was not published: what was read and what is guessed stands
in docs/co_ssl.md.

`rf*` are strided ResNets, ours and not the paper's: timm's with other strides or without max-pooling, the same blocks
and, but for a smaller first convolution, the same parameters, so that weights of the standard network fit. The names
say the receptive field in pixels that `glocal.backbones.receptive_field` computes; 427 is the standard ResNet-50.
"""

from functools import partial
from typing import Any

from torch import nn


def rf_resnet(
    depth: int,
    *,
    stem_kernel: int = 7,
    stem_stride: int = 2,
    maxpool: bool = True,
    strides: tuple[int, int, int] = (2, 2, 2),
    layers: tuple[int, int, int, int] | None = None,
    num_classes: int = 0,
    drop_path_rate: float = 0.0,
) -> Any:
    """timm's ResNet-18, -34, -50, ... with other strides, initialised as timm does it.

    Args:
        depth: that timm has as "resnet<depth>".
        stem_kernel: of the first convolution, 3 or 7, padded by its half. 7×7 to 3×3 saves 7,680 parameters.
        stem_stride: of the first convolution.
        maxpool: whether the 3×3 max-pooling of stride 2 follows.
        strides: of the first block of stages 2, 3 and 4, on its (first) 3×3 convolution and on its shortcut.
        layers: number of blocks of each stage; those of the depth by default.
        num_classes: of timm's classifier, 0 for none.
        drop_path_rate: see `build_backbone`.
    """
    import timm

    options: dict[str, Any] = {"layers": layers} if layers else {}
    model: Any = timm.create_model(f"resnet{depth}", num_classes=num_classes, drop_path_rate=drop_path_rate, **options)
    if (stem_kernel, stem_stride) != (7, 2):
        model.conv1 = nn.Conv2d(3, 64, stem_kernel, stem_stride, padding=stem_kernel // 2, bias=False)
        nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    if not maxpool:
        model.maxpool = nn.Identity()
    set_strides(model, (1, *strides), stem_stride * (2 if maxpool else 1))
    return model


def co_resnet(depth: int, **options: Any) -> nn.Module:
    """Our reading of the paper's RF-ResNets: 3×3 convolutions in the first two blocks of each stage only.

    Args:
        depth: 18 or 50; of a ResNet-18's blocks the second convolution is 1×1 too, as a ResNet-50's third is.
        options: of `rf_resnet`.
    """
    model = rf_resnet(depth, maxpool=False, **options)
    for info in model.feature_info[1:]:
        for i, block in enumerate(getattr(model, info["module"])):
            if i >= 2 or not hasattr(block, "conv3"):
                block.conv2 = nn.Conv2d(block.conv2.in_channels, block.conv2.out_channels, 1, bias=False)
    model.init_weights()
    return model


def set_strides(model, strides: tuple[int, ...], stem: int) -> None:
    """Set the stride of the first block of each stage of a timm ResNet without dilation, in place.

    `stem` is the stride at which the first stage starts.
    """
    model.feature_info[0]["reduction"] = model.conv1.stride[0] if isinstance(model.conv1, nn.Conv2d) else stem
    for stride, info in zip(strides, model.feature_info[1:], strict=True):
        block = getattr(model, info["module"])[0]
        spatial = block.conv2 if hasattr(block, "conv3") else block.conv1
        spatial.stride = (stride, stride)
        if block.downsample is not None:
            block.downsample[0].stride = (stride, stride)
        block.stride = stride
        stem *= stride
        info["reduction"] = stem


co_resnet50_rf99 = partial(co_resnet, 50, layers=(3, 4, 6, 5))
co_resnet18_rf29 = partial(co_resnet, 18, stem_kernel=3, stem_stride=1, strides=(1, 2, 2))
rf427_resnet50 = partial(rf_resnet, 50)
rf363_resnet50 = partial(rf_resnet, 50, strides=(2, 2, 1))
rf235_resnet50 = partial(rf_resnet, 50, strides=(2, 1, 1))
rf215_resnet50 = partial(rf_resnet, 50, maxpool=False)
rf183_resnet50 = partial(rf_resnet, 50, maxpool=False, strides=(2, 2, 1))
rf119_resnet50 = partial(rf_resnet, 50, maxpool=False, strides=(2, 1, 1))
rf107_resnet50 = partial(rf_resnet, 50, stem_kernel=3, stem_stride=1, maxpool=False)
rf99_resnet50 = partial(rf_resnet, 50, stem_kernel=3, maxpool=False, strides=(1, 2, 1))
rf435_resnet18 = partial(rf_resnet, 18)
rf109_resnet18 = partial(rf_resnet, 18, stem_kernel=3, stem_stride=1, maxpool=False)
rf899_resnet34 = partial(rf_resnet, 34)
rf225_resnet34 = partial(rf_resnet, 34, stem_kernel=3, stem_stride=1, maxpool=False)
