"""U-Nets that give the velocity of a flow from noise to images, and the map in their middle as features.

Small ones for images of 16 to 64 px: residual blocks with group normalisation, attention on the coarsest map (after Ho
et al. 2020, arXiv:2006.11239).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import ClassifierHead
from torch import Tensor, nn

FEATURE_TIME = 0.1
"""When an image is looked at for its features: a little way towards noise."""


class Block(nn.Module):
    """Two convolutions around which the input is added; the embedding of time and condition shifts the map between."""

    def __init__(self, before: int, after: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.GroupNorm(8, width) for width in (before, after))
        self.conv1, self.conv2 = (nn.Conv2d(width, after, 3, padding=1) for width in (before, after))
        self.shift = nn.Linear(embedding, after)
        self.skip: nn.Module = nn.Identity() if before == after else nn.Conv2d(before, after, 1)
        nn.init.zeros_(self.conv2.weight)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x))) + self.shift(embedding)[..., None, None]
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


class Attention(nn.Module):
    """Each cell looks at all others, with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, width)
        self.qkv, self.out = nn.Conv2d(width, 3 * width, 1), nn.Conv2d(width, width, 1)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm(x)).flatten(2).mT.chunk(3, dim=-1)
        return x + self.out(F.scaled_dot_product_attention(q, k, v).mT.unflatten(2, x.shape[2:]))


class UNet(nn.Module):
    """A velocity (B, 3, h, w) for each noisy image, and features from its middle; h and w are multiples of `stride`.

    Args:
        widths: channels at each resolution, each half of the one before.
        num_classes: 0: it has no classifier.

    Attributes:
        embedding: E, width of the vector that says the time and the condition.
        stride: pixels to a cell of the map in the middle.
    """

    def __init__(self, widths: Sequence[int], num_classes: int = 0) -> None:
        super().__init__()
        self.embedding = embedding = 4 * widths[0]
        self.stride = 2 ** (len(widths) - 1)
        self.time = nn.Sequential(nn.Linear(widths[0], embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.stem = nn.Conv2d(3, widths[0], 3, padding=1)
        self.down, self.shrink, self.up = nn.ModuleList(), nn.ModuleList(), nn.ModuleList()
        width = widths[0]
        for level, wide in enumerate(widths):
            if level:
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
            self.down.append(Block(width, wide, embedding))
            width = wide
        self.middle = nn.ModuleList([Block(width, width, embedding), Attention(width), Block(width, width, embedding)])
        for wide in reversed(widths):
            self.up.append(Block(width + wide, wide, embedding))
            width = wide
        self.norm, self.out = nn.GroupNorm(8, width), nn.Conv2d(width, 3, 3, padding=1)
        for parameter in self.out.parameters():
            nn.init.zeros_(parameter)
        self.head = ClassifierHead(widths[-1], num_classes)
        self.feature_info = [{"num_chs": widths[-1], "reduction": self.stride, "module": "middle"}]
        self.pretrained_cfg = {"input_size": (3, 32, 32), "mean": (0.5,) * 3, "std": (0.5,) * 3}

    def encode(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> tuple[Tensor, list[Tensor], Tensor]:
        """The map in the middle (B, D, H, W), those on the way to it, and the embedding (B, E); see `velocity`."""
        half = self.stem.out_channels // 2
        rates = torch.exp(-math.log(1e4) / half * torch.arange(half, device=x.device))
        angles = 1000 * time[:, None].float() * rates
        embedding = self.time(torch.cat([angles.cos(), angles.sin()], dim=1).to(x.dtype))
        embedding = F.silu(embedding if condition is None else embedding + condition)
        x, maps = self.stem(x), []
        for level, block in enumerate(self.down):
            x = block(self.shrink[level - 1](x) if level else x, embedding)
            maps.append(x)
        first, attention, second = self.middle
        return second(attention(first(x, embedding)), embedding), maps, embedding

    def velocity(self, x: Tensor, time: Tensor, condition: Tensor | None = None) -> Tensor:
        """dx/dt (B, 3, h, w) of noisy images (B, 3, h, w) at times (B,), 0 for images and 1 for noise.

        The condition is a vector (B, E) for each, or none.
        """
        x, maps, embedding = self.encode(x, time, condition)
        for block in self.up:
            there = maps.pop()
            x = x if x.shape[2:] == there.shape[2:] else F.interpolate(x, scale_factor=2.0)
            x = block(torch.cat([x, there], dim=1), embedding)
        return self.out(F.silu(self.norm(x)))

    def forward_features(self, x: Tensor) -> Tensor:
        """The map in the middle (B, D, H, W) of images, as they are at `FEATURE_TIME` on the average over the noise."""
        return self.encode((1 - FEATURE_TIME) * x, x.new_full((len(x),), FEATURE_TIME))[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The mean (B, D) of a map."""
        return self.head(x, pre_logits=pre_logits)

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """How deep a parameter is, as timm asks for it."""
        return {"stem": r"^(time|stem)", "blocks": [(r"^down\.(\d+)", None), (r"^shrink\.(\d+)", None)]}


unet_tiny = partial(UNet, (32, 64, 64))
unet_small = partial(UNet, (48, 96, 96))
