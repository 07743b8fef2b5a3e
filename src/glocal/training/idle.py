"""Parameters that nothing trains: of layers that an architecture has beside the way to its features."""

from __future__ import annotations

from typing import Any

import torch

from glocal.backbones import Backbone
from glocal.backbones.cells import evaluating


def idle_parameters(method: Any) -> list[str]:
    """Names of the encoder's parameters from which neither pooled nor dense features get a gradient.

    Found by a trial backward of the encoder as it pools, on a black image; nothing of the method changes. Such layers
    widen the features after pooling (the head of MobileNetV3, the fully connected layers of VGG). Several processes
    would wait for their gradients.

    Args:
        method: see `glocal.methods`; without a `Backbone` for an encoder nothing is tried.
    """
    encoder = method.encoder
    if not isinstance(encoder, Backbone):
        return []
    named = {f"encoder.{name}": p for name, p in encoder.named_parameters() if p.requires_grad}
    with evaluating(encoder), torch.enable_grad():
        image = torch.zeros(1, 3, encoder.image_size, encoder.image_size, device=next(encoder.parameters()).device)
        features = encoder(image)
        total = features.pooled.sum() + features.tokens.sum()
        gradients = torch.autograd.grad(total, list(named.values()), allow_unused=True)
    return [name for name, gradient in zip(named, gradients, strict=True) if gradient is None]
