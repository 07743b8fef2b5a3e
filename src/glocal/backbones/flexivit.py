"""FlexiViT (Beyer et al., CVPR 2023, arXiv:2212.08013): one vision transformer for patches of many sizes.

Its weights are a kernel of 32×32 pixels and 7×7 positions, which are resized to the patch that is asked for: positions
bilinearly, the kernel such that it says of a resized patch what it says of the patch itself (PI-resize, section 3.4):
exactly so for patches from 32 px on; for smaller ones, which hold less, by least squares.
"""

import math
from contextlib import nullcontext
from functools import cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import PatchEmbed
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from glocal.losses.loss import without_autocast

BUFFER, POSITIONS = 32, 7
"""Sides of the kernel, in pixels, and of the grid of positions."""
PUBLISHED = (8, 10, 12, 15, 16, 20, 24, 30, 40, 48)
"""The patches that the authors draw from, on images of 240 pixels."""
_NAMES = {192: "tiny", 384: "small", 768: "base"}


def pi_resize(kernel: Tensor, patch: int) -> Tensor:
    """Kernels (..., b, b) for patches of another size, (..., p, p).

    The least-norm least-squares solution w' of ⟨x, w⟩ = ⟨resize(x), w'⟩ for all x, where resize is bilinear, without
    antialiasing: w' = pinv(Rᵀ)·w. R acts on rows and columns alike, and so does its pseudo-inverse.
    """
    if patch == kernel.shape[-1]:
        return kernel
    matrix = _matrix(kernel.shape[-1], patch, kernel.dtype, kernel.device)
    with nullcontext() if kernel.is_meta else without_autocast(kernel):  # which knows no such device
        return matrix @ kernel @ matrix.T


@cache
def _matrix(size: int, to: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(to, size): pinv(Rᵀ) of the bilinear resize R of a row."""
    with torch.inference_mode(False):  # else what is first seen in inference could never be trained
        return torch.from_numpy(np.linalg.pinv(_bilinear(size, to).T)).to(device, dtype)


def _bilinear(size: int, to: int) -> np.ndarray:
    """(to, size): R."""
    centres = ((np.arange(to) + 0.5) * size / to - 0.5).clip(0, size - 1)
    return (1 - abs(centres[:, None] - np.arange(size))).clip(0)


def resized(positions: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embeddings (1, n², D) of a square as those of a grid (1, H·W, D): bilinearly, with antialiasing."""
    side = math.isqrt(positions.shape[1])
    square = positions.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    return F.interpolate(square, grid, mode="bilinear", antialias=True).flatten(2).transpose(1, 2)


class FlexiEmbed(PatchEmbed):
    """Cuts images into patches of `patch_size`, whatever the size of the kernel that it keeps."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, h, w) -> (B, H, W, D)."""
        patch = self.patch_size[0]
        for side in x.shape[2:]:
            torch._assert(side % patch == 0, f"its sides should be divisible by patch size ({patch}).")
        return F.conv2d(x, pi_resize(self.proj.weight, patch), self.proj.bias, stride=patch).permute(0, 2, 3, 1)


class FlexiViT(VisionTransformer):
    """timm's vision transformer, with class token, around `FlexiEmbed`."""

    patches = range(1, 2 * BUFFER + 1)
    pos_embed: nn.Parameter
    cls_token: nn.Parameter

    def __init__(self, *, patch: int, **options: Any) -> None:
        """The options are timm's.

        Raises:
            ValueError: for a patch beyond twice the kernel.
        """
        size: dict[str, Any] = {"img_size": BUFFER * POSITIONS, "patch_size": BUFFER, "dynamic_img_size": True}
        super().__init__(**size, no_embed_class=True, embed_layer=FlexiEmbed, **options)
        if patch not in self.patches:
            raise ValueError(f"its patches have 1 to {self.patches[-1]} px")
        self.patch = patch

    @property
    def patch(self) -> int:
        """Side in pixels of the patches. May be set."""
        return self.patch_embed.patch_size[0]

    @patch.setter
    def patch(self, patch: int) -> None:
        self.patch_embed.patch_size = (patch, patch)

    def _pos_embed(self, x: Tensor) -> Tensor:
        tokens = x.flatten(1, 2) + resized(self.pos_embed, (x.shape[1], x.shape[2]))
        return self.pos_drop(torch.cat([self.cls_token.expand(x.shape[0], -1, -1), tokens], dim=1))

    def plain(self, image_size: int) -> tuple[str, dict[str, Any], dict[str, Tensor]]:
        """timm's name, arguments and weights of the ordinary vision transformer that this is at its patch."""
        grid = image_size // self.patch
        weights = {"patch_embed.proj.weight": pi_resize(self.patch_embed.proj.weight, self.patch)}
        weights["pos_embed"] = resized(self.pos_embed, (grid, grid))
        arguments = {"patch_size": self.patch, "no_embed_class": True}
        return f"vit_{_NAMES[self.embed_dim]}_patch16_224", arguments, self.state_dict() | weights


def checkpoint_filter_fn(state: dict[str, Tensor], model: FlexiViT) -> dict[str, Tensor]:
    """Weights of an ordinary vision transformer as those of this one: its positions resized, its kernel w as Rᵀ·w·R.

    That says of a patch of 32 px what w says of the patch made as small as its own (R), and is seen there as w itself.
    """
    positions = state["pos_embed"]
    if math.isqrt(positions.shape[1]) ** 2 != positions.shape[1]:  # the first is the class token's
        state["cls_token"], positions = state["cls_token"] + positions[:, :1], positions[:, 1:]
    state["pos_embed"] = resized(positions, (POSITIONS, POSITIONS))
    kernel = state["patch_embed.proj.weight"]
    if (patch := kernel.shape[-1]) < BUFFER:
        resize = torch.from_numpy(_bilinear(BUFFER, patch)).to(kernel)
        state["patch_embed.proj.weight"] = resize.T @ kernel @ resize
    else:
        state["patch_embed.proj.weight"] = pi_resize(kernel, BUFFER)
    return state


def flexivit(width: int, heads: int, *, patch: int = 16, num_classes: int = 0, drop_path_rate: float = 0.0) -> Any:
    """Twelve blocks, initialised as timm does it."""
    options: dict[str, Any] = {"embed_dim": width, "depth": 12, "num_heads": heads}
    model: Any = FlexiViT(patch=patch, num_classes=num_classes, drop_path_rate=drop_path_rate, **options)
    model.pretrained_cfg = {"input_size": (3, 240, 240), "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return model


flexivit_tiny = partial(flexivit, 192, 3)
flexivit_small = partial(flexivit, 384, 6)
flexivit_base = partial(flexivit, 768, 12)
