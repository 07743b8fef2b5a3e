"""torchvision's names of what timm calls otherwise. Those of its ResNets are timm's own."""

import re
from collections.abc import Callable

from torch import Tensor

Table = dict[str, str | Callable[[re.Match[str]], str]]

_VIT: Table = {
    r"class_token": "cls_token",
    r"conv_proj": "patch_embed.proj",
    r"encoder\.pos_embedding": "pos_embed",
    r"encoder\.layers\.encoder_layer_(\d+)": r"blocks.\1",
    r"encoder\.ln\b": "norm",
    r"\bln_([12])\b": r"norm\1",
    r"self_attention\.in_proj_": "attn.qkv.",
    r"self_attention\.out_proj": "attn.proj",
    r"mlp\.(0|linear_1)\b": "mlp.fc1",
    r"mlp\.(3|linear_2)\b": "mlp.fc2",
}
_CONVNEXT: Table = {
    r"features\.0\.([01])\b": r"stem.\1",
    r"features\.([1357])\.(\d+)\.block\.0": lambda at: f"stages.{int(at[1]) // 2}.blocks.{at[2]}.conv_dw",
    r"features\.([1357])\.(\d+)\.block\.2": lambda at: f"stages.{int(at[1]) // 2}.blocks.{at[2]}.norm",
    r"features\.([1357])\.(\d+)\.block\.3": lambda at: f"stages.{int(at[1]) // 2}.blocks.{at[2]}.mlp.fc1",
    r"features\.([1357])\.(\d+)\.block\.5": lambda at: f"stages.{int(at[1]) // 2}.blocks.{at[2]}.mlp.fc2",
    r"features\.([1357])\.(\d+)\.layer_scale": lambda at: f"stages.{int(at[1]) // 2}.blocks.{at[2]}.gamma",
    r"features\.([246])\.([01])\b": lambda at: f"stages.{int(at[1]) // 2}.downsample.{at[2]}",
    r"classifier\.0\b": "head.norm",
}


def timm_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under timm's names, where it has those of torchvision's vision transformers or ConvNeXts."""
    tables = {"encoder.layers.encoder_layer_0.": _VIT, "features.1.0.layer_scale": _CONVNEXT}
    none: Table = {}
    table = next((table for sign, table in tables.items() if any(sign in key for key in state)), none)
    renamed = {}
    for key, value in state.items():
        for theirs, ours in table.items():
            key = re.sub(theirs, ours, key)
        renamed[key] = value.flatten() if key.endswith("gamma") else value
    return renamed
