"""Backbones that timm lacks, ours and others' (`glocal.plugins`), and what makes one.

It is a function of keyword arguments (what it knows of `num_classes`, which is 0, `drop_path_rate`, `output_stride`,
`img_size`) that gives a module with what a timm model has: `forward_features`, `forward_head`, and `pretrained_cfg`
with "input_size", "mean" and "std".
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from glocal.errors import UsageError
from glocal.plugins import GUIDE, find, names


def registered_names() -> list[str]:
    """Their names, sorted."""
    return names("backbones")


def registered_backbone(name: str) -> Callable[..., nn.Module] | None:
    """What builds the model of that name, or that at "module:function"; None where nobody registered it.

    Raises:
        UsageError: for a place where there is none.
    """
    return find("backbones", name) if ":" in name or name in registered_names() else None


def check_model(model: Any, name: str) -> nn.Module:
    """The model, if it has what `Backbone` asks of it.

    Raises:
        UsageError: to its author, if not.
    """
    lacking = [part for part in ("forward_features", "forward_head", "pretrained_cfg") if not hasattr(model, part)]
    if not lacking:
        lacking = [
            f"pretrained_cfg[{key!r}]" for key in ("input_size", "mean", "std") if key not in model.pretrained_cfg
        ]
    if lacking:
        raise UsageError(f"backbone '{name}': `{type(model).__name__}` lacks `{lacking[0]}` ({GUIDE})")
    return model
