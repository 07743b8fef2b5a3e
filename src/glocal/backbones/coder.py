"""The encoder of convolutional autoencoders: halved until one cell is left, without normalisation."""

import math

from timm.layers import ClassifierHead
from torch import Tensor, nn


class ConvCoder(nn.Module):
    """4×4 convolutions of stride 2 and ReLU, as many as make one cell of an image; of IRMAE (Jing et al. 2020).

    Args:
        img_size: side of the images, pixels.
        width: channels of the first; each further one has twice as many, at most 8 times.
        num_classes: 0: it has no classifier.
    """

    def __init__(self, img_size: int | None = None, width: int = 32, num_classes: int = 0) -> None:
        super().__init__()
        size = img_size or 32
        levels = int(math.log2(size))
        self.body, channels = nn.Sequential(), 3
        for level in range(levels):
            wide = width * 2 ** min(3, level)
            self.body.extend([nn.Conv2d(channels, wide, 4, stride=2, padding=1), nn.ReLU()])
            channels = wide
        self.head = ClassifierHead(channels, num_classes)
        self.feature_info = [{"num_chs": channels, "reduction": 2**levels, "module": "body"}]
        self.pretrained_cfg = {"input_size": (3, size, size), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def forward_features(self, x: Tensor) -> Tensor:
        """The last map (B, D, H, W), of one cell where the image has the size it is made for."""
        return self.body(x)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean (B, D) of a map."""
        return self.head(x, pre_logits=pre_logits)

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """How deep a parameter is, as timm asks for it."""
        return {"layers": r"^body\.(\d+)"}
