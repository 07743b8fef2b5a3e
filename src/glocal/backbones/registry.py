"""Backbones that timm lacks, ours and third-party ones alike, under the entry-point group `glocal.backbones`.

One that is not registered, an experiment's, is named by where it is: "mypackage.file:function".

An entry is a function of keyword arguments (`num_classes=0`, and what else it knows of `drop_path_rate`,
`output_stride` and `img_size`) that gives a module with what a timm model has: `forward_features`, `forward_head`,
`pretrained_cfg` with "input_size", "mean" and "std".
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points

from torch import nn

from glocal.errors import UsageError


def registered_names() -> list[str]:
    """Their names, sorted."""
    return sorted({point.name for point in entry_points(group="glocal.backbones")})


def registered_backbone(name: str) -> Callable[..., nn.Module] | None:
    """What builds the model of that name, or that at "module:function"; None where nobody registered it.

    Raises:
        UsageError: for a place where there is none.
    """
    if ":" in name:
        try:
            return EntryPoint(name, name, "glocal.backbones").load()
        except (ImportError, AttributeError) as error:
            raise UsageError(f"no backbone at '{name}', which should be module:function ({error})") from error
    found = next(iter(entry_points(group="glocal.backbones", name=name)), None)
    return found.load() if found else None
