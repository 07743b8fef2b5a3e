"""MobileNet-v1 (Howard et al. 2017, arXiv 1704.04861) of a quarter and of half the width, with TensorFlow's padding.

Small released weights of it are BatchNorm-free: it is folded into the convolutions. Loading such weights leaves it out
of the network, too, in which nothing would else keep the features that they were trained for.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from torch import Tensor, nn

PLAN = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2), (1024, 1))
"""Channels at full width and stride of each depthwise and pointwise pair."""


class Conv2dSame(nn.Conv2d):
    """Padded as TensorFlow does, like timm's of that name, and without arithmetic on sizes, which torch.export fears.

    Of kernel 3 and stride 2: the last window is centred on the last pixel, whatever the size; the first one would be by
    the usual padding of 1. So both images and weights are turned around, and the map is turned back.
    """

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x.flip(2, 3), self.weight.flip(2, 3), self.bias).flip(2, 3)


class Layer(nn.Module):
    """A convolution, BatchNorm unless it is folded into it, ReLU6."""

    def __init__(self, width: int, wide: int, kernel: int, stride: int = 1, *, dilation: int = 1, groups: int = 1):
        super().__init__()
        conv = Conv2dSame if stride > 1 else nn.Conv2d  # without a stride TensorFlow's padding is the usual one
        padding = dilation * (kernel // 2)
        self.conv = conv(width, wide, kernel, stride, padding, dilation=dilation, groups=groups, bias=False)
        self.norm: Any = nn.BatchNorm2d(wide, eps=1e-3)
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        return F.relu6(self.norm(self.conv(x)))

    def leave_out_norm(self) -> None:
        """Make room for weights into which it is folded: a bias in its place."""
        if self.conv.bias is None:
            zeros, trains = torch.zeros_like(self.norm.bias), self.norm.bias.requires_grad
            self.conv.bias, self.norm = nn.Parameter(zeros, requires_grad=trains), nn.Identity()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *rest: Any) -> None:
        if f"{prefix}conv.bias" in state_dict:  # a checkpoint of one that was without
            self.leave_out_norm()
        super()._load_from_state_dict(state_dict, prefix, *rest)


class MobileNet(nn.Module):
    """The convolutions, initialised as timm's ResNets are.

    Args:
        multiplier: of the channels.
        size: side in pixels of the images that the released weights were made for.
        num_classes: of the classifier, 0 for none.
        output_stride: 8, 16 or 32, reached by dilation in place of stride.
    """

    def __init__(self, multiplier: float, size: int, *, num_classes: int = 0, output_stride: int = 32) -> None:
        super().__init__()
        width, stride, dilation = int(32 * multiplier), 2, 1
        layers = [Layer(3, width, 3, 2)]
        for channels, step in PLAN:
            coarser = stride * step <= output_stride
            if step == 2:
                before = {"num_chs": width, "reduction": stride, "module": f"layers.{len(layers) - 1}"}
            layers.append(Layer(width, width, 3, step if coarser else 1, dilation=dilation, groups=width))
            stride, dilation = (stride * step, dilation) if coarser else (stride, dilation * step)
            wide = int(channels * multiplier)
            layers.append(Layer(width, wide, 1))
            width = wide
        self.layers = nn.Sequential(*layers)
        self.head = ClassifierHead(width, num_classes)
        self.feature_info = [before, {"num_chs": width, "reduction": stride, "module": "layers"}]
        self.pretrained_cfg = {"input_size": (3, size, size), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def group_matcher(self, coarse: bool = False) -> Callable[[str], int]:
        """How deep a parameter is, as timm asks for it: a depthwise and a pointwise convolution are one layer."""
        return lambda name: (int(name.split(".")[1]) + 1) // 2

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map, (B, D, H, W)."""
        return self.layers(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Logits of a map, or its mean (B, D)."""
        return self.head(x, pre_logits=pre_logits)


def checkpoint_filter_fn(state: dict[str, Tensor], model: Any) -> dict[str, Tensor]:
    """The tensors of the quantised file (`n.weight`, `n.scale`, `n.zero`, `n.bias`) under our names, as numbers.

    Of weights with biases the model's BatchNorm is left out.
    """
    if "0.scale" in state:
        at = range(len(model.layers))
        numbers = {n: state[f"{n}.scale"] * (state[f"{n}.weight"].float() - state[f"{n}.zero"]) for n in at}
        weights = {f"layers.{n}.conv.weight": numbers[n] for n in at}
        state = weights | {f"layers.{n}.conv.bias": state[f"{n}.bias"] for n in at}
    if "layers.0.conv.bias" in state:
        for layer in model.layers:
            layer.leave_out_norm()
    return state


def name_of(state: dict[str, Tensor]) -> str | None:
    """Which of ours a quantised file is of, by how many layers it has and how wide the first is; None: neither."""
    if f"{2 * len(PLAN)}.scale" not in state:
        return None
    return {8: "mobilenet_v1_025", 16: "mobilenet_v1_050"}.get(len(state["0.weight"]))


mobilenet_v1_025 = partial(MobileNet, 0.25, 128)
mobilenet_v1_050 = partial(MobileNet, 0.5, 160)
