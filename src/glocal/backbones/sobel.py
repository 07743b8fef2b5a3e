"""Networks that see edges only: DeepCluster and DeeperCluster take colour, a short cut to clusters, from theirs."""

from functools import partial
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import ClassifierHead
from torch import Tensor, nn


class Sobel(nn.Module):
    """The mean of the channels, then its horizontal and vertical Sobel gradients: (B, 3, h, w) -> (B, 2, h, w)."""

    kernels: Tensor

    def __init__(self) -> None:
        super().__init__()
        across = torch.tensor([[1.0, 0.0, -1.0], [2.0, 0.0, -2.0], [1.0, 0.0, -1.0]])
        self.register_buffer("kernels", torch.stack([across, across.T])[:, None], persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x.mean(dim=1, keepdim=True), self.kernels.to(x.dtype), padding=1)


class AlexNet(nn.Module):
    """The convolutions of AlexNet on Sobel gradients, with BatchNorm in place of response normalisation.

    Krizhevsky, Sutskever, Hinton 2012, as DeepCluster has it. Its fully connected layers are the method's.
    """

    def __init__(self, num_classes: int = 0) -> None:
        super().__init__()
        layers: list[nn.Module] = [Sobel()]
        width = 2
        for wide, kernel, stride in ((96, 11, 4), (256, 5, 1), (384, 3, 1), (384, 3, 1), (256, 3, 1)):
            conv = nn.Conv2d(width, wide, kernel, stride, padding=2 if kernel > 3 else 1)
            nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
            layers += [conv, nn.BatchNorm2d(wide), nn.ReLU(inplace=True)] + [nn.MaxPool2d(3, 2)] * (wide != 384)
            width = wide
        self.features = nn.Sequential(*layers)
        self.head = ClassifierHead(width, num_classes)
        self.feature_info = [{"num_chs": width, "reduction": 32, "module": "features"}]
        self.pretrained_cfg = {"input_size": (3, 224, 224), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """How deep a parameter is, as timm asks for it."""
        return {"layers": r"^features\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        return self.features(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        return self.head(x, pre_logits=pre_logits)


def sobel_vgg16_bn(num_classes: int = 0) -> nn.Module:
    """timm's VGG-16 with BatchNorm on Sobel gradients; its fully connected layers are the method's."""
    model: Any = timm.create_model("vgg16_bn", in_chans=2, mlp_ratio=1 / 4096)  # as small as they can be
    model.features.insert(0, Sobel())
    model.pre_logits, model.head = nn.Identity(), ClassifierHead(model.num_features, num_classes)
    return model


def _resnet(name: str, **options: Any) -> nn.Module:
    """timm's ResNet `name` on Sobel gradients."""
    model: Any = timm.create_model(name, in_chans=2, **options)
    model.conv1 = nn.Sequential(Sobel(), model.conv1)
    return model


sobel_resnet18 = partial(_resnet, "resnet18")
sobel_resnet50 = partial(_resnet, "resnet50")
