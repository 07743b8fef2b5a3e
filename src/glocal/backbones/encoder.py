"""A trained encoder on disk: its weights, under timm's own names, and how to rebuild it."""

import hashlib
import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from glocal.backbones.backbone import Backbone
from glocal.backbones.build import build_backbone
from glocal.backbones.weights import encoder_weights, load_weights, read_checkpoint, read_weights
from glocal.errors import UsageError, did_you_mean
from glocal.plugins import refuse_untrusted
from glocal.run import Run, write_atomically


def save_encoder(backbone: Backbone, directory: str | Path, **extra: Any) -> None:
    """Write the two files into a directory, each whole or not at all.

    Args:
        backbone: to be saved, on any device.
        directory: made if absent.
        extra: JSON values to keep with it (method, step, ...), under "extra".
    """
    weights, about = Run(directory).encoder_files
    known = ("name", "config", "dim", "stride", "mean", "std", "image_size")
    description = {key: getattr(backbone, key) for key in known if hasattr(backbone, key)}
    description |= {"glocal": version("glocal"), "timm": version("timm"), "extra": extra}
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.model.state_dict().items()}
    write_atomically(weights, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    write_atomically(about, json.dumps(description, indent=2) + "\n")


def load_encoder(spec: str | Path, *, image_size: int | None = None, trust_code: bool = False) -> Backbone:
    """An encoder from anywhere, in eval mode.

    Args:
        spec: a run directory, any folder with the two files, the path of its encoder.safetensors, "timm:NAME" for
            timm's published weights, "timm:NAME:FILE" for those of a file, or "timm:NAME:random" for a random
            initialisation; of the quantised MobileNets, which can be told from others, the file alone.
        image_size: side in pixels of the images to come; a ViT's position embeddings are resampled to it. Default: as
            trained.

    Raises:
        UsageError: if there is no encoder there, or it cannot be read.
    """
    if str(spec).startswith("timm:"):
        name, _, kind = str(spec).removeprefix("timm:").partition(":")
        if kind not in ("", "random") and not Path(kind).is_file():
            raise UsageError(f"unknown encoder '{spec}'; write timm:{name}, timm:{name}:random or timm:{name}:FILE")
        return _released(name, pretrained=not kind if kind in ("", "random") else kind, image_size=image_size)
    path = Path(spec)
    if path.is_file() and not (Run(path.parent).has_encoder and path in Run(path.parent).encoder_files):
        return _released(_network_of(path), pretrained=path, image_size=image_size)
    run = _place(path)
    weights, about = run.encoder_files
    if run.has_encoder:
        config: Any = run.encoder().get("config")
        tensors = read_weights(weights)
    else:
        about = weights = run.checkpoint_file
        state = read_checkpoint(run)
        config, tensors = state.get("encoder"), encoder_weights(state)
        step = state["position"]["step"]
        print(f"{run} has not finished: the encoder of its last checkpoint, step {step:,}, is taken", file=sys.stderr)
    try:
        config = {**config, "image_size": image_size or config["image_size"]}
        name = str(config["name"])
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{about} does not say how to build the encoder; export it again, or resume the run"
        ) from error
    from glocal.backbones.flexivit import BUFFER  # which needs timm

    kernel = tensors.get("patch_embed.proj.weight")
    if name in ("flexivit_small", "flexivit_base") and kernel is not None and kernel.shape[-1] != BUFFER:
        config["name"] = f"{name}.1200ep_in1k"  # timm's, of one patch: the name was theirs before
    consent = f"glocal.load({str(spec)!r}, trust_code=True)"
    refuse_untrusted([name], origin=about, trust_code=trust_code, command=consent)
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: loading must not move the generator
        backbone = build_backbone(**config | {"pretrained": False})
    backbone.pretrained = config.get("pretrained", False)
    load_weights(backbone.model, tensors, origin=weights, minimum=1.0)
    return backbone.eval()


def _released(name: str, *, pretrained: bool | Path | str, image_size: int | None) -> Backbone:
    """What others trained, from a random initialisation."""
    backbone = build_backbone(name, pretrained=pretrained, image_size=image_size)
    backbone.pretrained = False
    return backbone.eval()


def _network_of(path: Path) -> str:
    """The network that a bare file of weights is of; `UsageError` where it does not say so."""
    from glocal.backbones import mobilenet  # which needs timm

    if name := mobilenet.name_of(read_weights(path)):
        return name
    raise UsageError(
        f"{path} does not say of which network it is: name it, timm:NAME:{path}, or, of a run or an export, put"
        " encoder.json beside it"
    )


def _place(path: Path) -> Run:
    """Where there is an encoder: a finished one, or that of a run's last checkpoint."""
    if path.is_file():
        return Run(path.parent)
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        hint = did_you_mean(path.name, siblings, otherwise="; give a run directory, or timm:NAME")
        raise UsageError(f"no encoder at {path}{hint}")
    run = Run(path)
    if run.has_encoder or run.has_checkpoint:
        return run
    names = " and ".join(file.name for file in run.encoder_files)
    raise UsageError(f"{path} holds no encoder ({names}) and no checkpoint; give a run directory")


def digest(module: nn.Module) -> int:
    """64 bits that follow from the weights, but for position embeddings: resampling rounds differently elsewhere."""
    found = hashlib.blake2b(digest_size=8)
    for name, tensor in module.state_dict().items():
        if "pos_embed" not in name:
            found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return int.from_bytes(found.digest(), "little", signed=True)
