"""BagNets (Brendel & Bethge, ICLR 2019, arXiv 1904.00760): ResNet-50s that see 9, 17 or 33 px.

3×3 convolutions stand only in the stem and in the first block of the first two, three or four stages; all others are
1×1. Nothing is padded, so each cell is a function of one square patch of real pixels, wherever it lies; the map is a
little smaller than the image divided by 8 (24×24 for 224 px). The shortcut past an unpadded 3×3 convolution loses its
last two rows and columns, as in the authors' code, whose weights therefore fit.
"""

from functools import partial
from typing import Any

from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

from glocal.backbones.rf_resnet import set_strides


class BagNet(ResNet):
    """timm's ResNet-50, initialised as there, with strides (2, 2, 2, 1) and few 3×3 convolutions.

    Args:
        stages: how many have a 3×3 convolution: 2, 3, 4 give receptive fields of 9, 17, 33 px.
        num_classes: of the classifier, 0 for none.
        drop_path_rate: see `build_backbone`.
    """

    def __init__(self, stages: int, *, num_classes: int = 0, drop_path_rate: float = 0.0):
        block: Any = _Block  # timm's annotation asks for an instance
        super().__init__(block, (3, 4, 6, 3), num_classes=num_classes, drop_path_rate=drop_path_rate)
        self.pretrained_cfg = {"input_size": (3, 224, 224), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
        self.conv1 = nn.Sequential(nn.Conv2d(3, 64, 1, bias=False), nn.Conv2d(64, 64, 3, bias=False))
        self.add_module("maxpool", nn.Identity())
        layers: Any = (self.layer1, self.layer2, self.layer3, self.layer4)
        for stage, layer in enumerate(layers):
            for i, block in enumerate(layer):
                width = block.conv2.out_channels
                block.conv2 = nn.Conv2d(width, width, 3 if i == 0 and stage < stages else 1, bias=False)
        set_strides(self, (2, 2, 2, 1), 1)
        self.init_weights()


class _Block(Bottleneck):
    """A bottleneck whose 3×3 convolution is not padded."""

    def forward(self, x: Tensor) -> Tensor:
        lost = self.conv2.kernel_size[0] - 1
        # Before the shortcut's stride rather than after it: the same cells are left, and less is computed.
        shortcut = x[:, :, :-lost, :-lost] if lost else x
        x = self.act1(self.bn1(self.conv1(x)))
        x = self.act2(self.bn2(self.conv2(x)))
        x = self.bn3(self.conv3(x))
        if self.drop_path is not None:
            x = self.drop_path(x)
        if self.downsample is not None:
            shortcut = self.downsample(shortcut)
        return self.act3(x + shortcut)


def checkpoint_filter_fn(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The authors' names of the two stem convolutions into ours; the others are the same."""
    stem = {"conv1.weight": "conv1.0.weight", "conv2.weight": "conv1.1.weight"}
    return {stem.get(key, key): value for key, value in state.items()}


bagnet9 = partial(BagNet, 2)
bagnet17 = partial(BagNet, 3)
bagnet33 = partial(BagNet, 4)
