"""Patches that are drawn anew at each step (FlexiViT)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from glocal.backbones import Backbone
from glocal.methods.frozen import Frozen
from glocal.random import uniform


@contextmanager
def drawn_patch(method: nn.Module, patches: Sequence[int], seed: int, step: int) -> Iterator[None]:
    """In this context the encoder and its teachers have one of these patches: a step's, the same on all processes.

    Encoders that only teach, `Frozen`, keep theirs, and all do where there is no patch to draw from. Afterwards each
    has its own again.
    """
    if not patches:
        yield
        return
    patch = patches[int(uniform(seed, "patch", step, n=1)[0] * len(patches))]
    fixed = {module.encoder for module in method.modules() if isinstance(module, Frozen)}
    moving = [module for module in method.modules() if isinstance(module, Backbone) and module not in fixed]
    own = [encoder.patch for encoder in moving]
    try:
        for encoder in moving:
            encoder.patch = patch
        yield
    finally:
        for encoder, before in zip(moving, own, strict=True):
            encoder.patch = before
