"""Vision transformers on some of an image's patches."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from glocal.errors import UsageError


def can_drop(model: Any) -> bool:
    """Whether a timm model is a plain vision transformer, whose blocks take any number of tokens."""
    from timm.models.vision_transformer import VisionTransformer

    return isinstance(model, VisionTransformer) and isinstance(model.patch_drop, nn.Identity)


@contextmanager
def dropping(model: Any, name: str, kept: Tensor, prefix: int) -> Iterator[None]:
    """Within this context a model goes on with `kept` patches only, (K,) or (B, K), once their positions are added.

    The `prefix` of class and register tokens stays.
    """
    if not can_drop(model):
        raise UsageError(
            f"{name} cannot leave out patches; choose a plain vision transformer such as vit_small_patch16_224"
        )

    def keep(module: nn.Module, inputs: Any, tokens: Tensor) -> Tensor:
        first, patches = tokens[:, :prefix], tokens[:, prefix:]
        if kept.ndim == 1:
            patches = patches[:, kept]
        else:
            patches = patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))
        return torch.cat([first, patches], dim=1)

    handle = model.patch_drop.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()
