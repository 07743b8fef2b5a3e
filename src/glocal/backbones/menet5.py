"""MeNet5, the small convolutional network of Sobal et al. 2022 (arXiv:2211.10831), for images of about 28 px."""

import torch
from torch import Tensor, nn


class MeNet5(nn.Module):
    """Three convolutions, a pooling and one linear layer, which knows where in the image each cell lies.

    Its code is a sum over the cells of the map, each through weights of its own: these summands are the map here, so
    that their sum is the code.

    Args:
        img_size: side of the images, pixels.
        width: of the convolutions, in units of (16, 32, 32) channels.
        dim: D, length of the code.
        num_classes: always 0.
    """

    def __init__(self, img_size: int = 28, width: int = 2, dim: int = 512, num_classes: int = 0) -> None:
        super().__init__()
        narrow, wide = 16 * width, 32 * width
        layers: list[nn.Module] = []
        for before, after, kernel, stride in ((3, narrow, 5, 2), (narrow, wide, 5, 2), (wide, wide, 3, 1)):
            conv = nn.Conv2d(before, after, kernel, stride, padding=kernel // 2)
            layers += [conv, nn.ReLU(inplace=True), nn.BatchNorm2d(after)]
        self.convolutions = nn.Sequential(*layers, nn.AvgPool2d(2))
        self.side = (img_size + 3) // 8
        bound = (wide * self.side**2) ** -0.5
        self.weight = nn.Parameter(torch.empty(self.side, self.side, dim, wide).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(dim).uniform_(-bound, bound))
        self.feature_info = [{"num_chs": dim, "reduction": 8, "module": "convolutions"}]
        self.num_features = dim
        self.pretrained_cfg = {"input_size": (3, img_size, img_size), "mean": (0.25,) * 3, "std": (0.15,) * 3}

    def group_matcher(self, coarse: bool = False) -> dict[str, str]:
        """How deep a parameter is, as timm asks for it."""
        return {"layers": r"^convolutions\.(\d+)"}

    def forward_features(self, x: Tensor) -> Tensor:
        """(B, D, side, side): what each cell adds to the code."""
        cells = torch.einsum("bchw,hwdc->bdhw", self.convolutions(x), self.weight)
        return cells + self.bias[:, None, None] / self.side**2

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """(B, D), the code."""
        return x.sum((2, 3))
