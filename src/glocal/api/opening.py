"""How encoders are opened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from glocal.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

    from glocal.backbones import Backbone

Which = Literal["student", "teacher"]


def load(
    encoder: str,
    *,
    which: Which = "student",
    mask: str | None = None,
    image_size: int | None = None,
    trust_code: bool = False,
) -> Backbone:
    """An encoder from a run, an exported folder or file, or timm.

    Args:
        encoder: a run's directory, encoder.safetensors (or its folder), `timm:NAME` for released weights,
            `timm:NAME:FILE` for a file's, `timm:NAME:random`; of our MobileNets the file alone.
        which: of a run of BYOL, MoCo-v3, DINO, MSN or LOCA, and of their CO- variants, also the "teacher", the moving
            average that the papers of DINO and MSN evaluate: as its last checkpoint has it.
        mask: the mask.npz of a run that adapted this very encoder: it then computes what that run's encoder does.
        image_size: for vision transformers built for one size.
        trust_code: import the module:function of an unregistered backbone, which the encoder's file names.

    Returns:
        A Backbone in evaluation mode: (B, 3, h, w) normalised pixels -> Features(pooled, dense, ...).

    Raises:
        UsageError: if there is no encoder there, or the mask is of another one.
    """
    from glocal.adaptation.masks import load_mask
    from glocal.backbones import load_encoder
    from glocal.methods import teacher_of

    if which == "teacher":
        method = load_method(encoder, trust_code=trust_code)
        if (teacher := teacher_of(method)) is None:
            raise UsageError(f"{encoder}: {type(method).__name__} keeps no teacher; leave out which=teacher")
        return teacher
    opened = load_encoder(encoder, image_size=image_size, trust_code=trust_code)
    return opened if mask is None else load_mask(opened, mask)


def load_method(run: str | Path, *, trust_code: bool = False) -> nn.Module:
    """The whole method of a run, heads and teacher included, as its last checkpoint has it: for research.

    Args:
        run: the directory of a run, which may be unfinished.
        trust_code: import what its config.yaml names as module:attribute.

    Returns:
        The method in evaluation mode, on the CPU; its `encoder` is what `load` gives of a finished run, unless a guard
        handed over that of an earlier step.

    Raises:
        UsageError: if it is no run, or has no checkpoint, or one that does not fit its config.yaml.
    """
    from glocal.pipeline import trained_method
    from glocal.run import Run

    return trained_method(Run.open(run), trust_code=trust_code)


def opened_encoder(
    encoder: str | Backbone,
    which: Which,
    mask: str | None,
    image_size: int | None,
    trust_code: bool,
    *,
    texts: bool = False,
) -> Backbone:
    """What `load` gives for these, or the Backbone given in its place; one that reads texts only where they serve."""
    if image_size is not None and not 1 <= image_size <= 8192:
        raise UsageError(f"--image-size {image_size}: images have 1 to 8,192 pixels a side")
    given = encoder
    if isinstance(encoder, str):
        encoder = load(encoder, which=which, mask=mask, image_size=image_size, trust_code=trust_code)
    if getattr(encoder, "reads", "images") == "text" and not texts:
        raise UsageError(f"{given if isinstance(given, str) else 'the encoder'} reads texts; this needs one of images")
    return encoder
