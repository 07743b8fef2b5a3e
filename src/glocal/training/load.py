"""A run's whole method, heads and teacher included, from its configuration and its last checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from glocal.backbones import build_backbone
from glocal.backbones.build import OPTIONS
from glocal.errors import UsageError
from glocal.methods import method_class, method_options
from glocal.training.checkpoint import BROKEN, checkpoint_path
from glocal.training.run import read_config


def load_method(run: str | Path) -> nn.Module:
    """See `glocal.load_method`."""
    path, config = checkpoint_path(Path(run)), read_config(Path(run))
    if not path.exists():
        raise UsageError(f"{run} has no checkpoint yet ({path}); continue it with: glocal pretrain --resume {run}")
    cls = method_class(config["method"])
    options = {name: config[name] for name in OPTIONS if name in config} | {"pretrained": False}
    with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
        backbone = build_backbone(config["backbone"], pool=cls.pool, **options)
        method = cls(backbone, **{name: config[name] for name in method_options(cls) if name in config})
    backbone.pretrained = config.get("pretrained", False)
    try:
        method.load_state_dict(torch.load(path, map_location="cpu", weights_only=True)["method"])
    except BROKEN as error:
        raise UsageError(f"{path} is damaged or of another config.yaml: {str(error).partition(chr(10))[0]}") from error
    return method.eval()
