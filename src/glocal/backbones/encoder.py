"""A trained encoder on disk: `encoder.safetensors` (timm's own names) and `encoder.json` (how to rebuild it)."""

from __future__ import annotations

import difflib
import json
import os
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from glocal.backbones.backbone import Backbone
from glocal.backbones.build import build_backbone
from glocal.backbones.weights import load_weights, read_weights
from glocal.errors import UsageError

WEIGHTS = "encoder.safetensors"
DESCRIPTION = "encoder.json"


def save_encoder(backbone: Backbone, directory: str | Path, **extra: Any) -> None:
    """Write the two files into a directory, each whole or not at all.

    Args:
        backbone: to be saved, on any device.
        directory: made if absent.
        extra: JSON values to keep with it (method, step, ...), under "extra".
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    description = {
        "name": backbone.name,
        "config": backbone.config,
        "dim": backbone.dim,
        "stride": backbone.stride,
        "mean": backbone.mean,
        "std": backbone.std,
        "image_size": backbone.image_size,
        "glocal": version("glocal"),
        "timm": version("timm"),
        "extra": extra,
    }
    text = json.dumps(description, indent=2) + "\n"
    tensors = {key: value.detach().cpu().contiguous() for key, value in backbone.model.state_dict().items()}
    _write(directory / WEIGHTS, lambda path: save_file(tensors, path, metadata={"format": "pt"}))
    _write(directory / DESCRIPTION, lambda path: path.write_text(text))


def load_encoder(spec: str | Path, *, image_size: int | None = None) -> Backbone:
    """An encoder from anywhere, in eval mode.

    Args:
        spec: a run directory, any folder with the two files, the path of its encoder.safetensors, "timm:NAME" for
            timm's published weights, or "timm:NAME:random" for a random initialisation.
        image_size: side in pixels of the images to come; a ViT's position embeddings are resampled to it. Default: as
            trained.

    Raises:
        UsageError: if there is no encoder there, or it cannot be read.
    """
    if str(spec).startswith("timm:"):
        name, _, kind = str(spec).removeprefix("timm:").partition(":")
        if kind not in ("", "random"):
            raise UsageError(f"unknown encoder '{spec}'; write timm:{name} or timm:{name}:random")
        backbone = build_backbone(name, pretrained=not kind, image_size=image_size)
        backbone.pretrained = False  # released weights are what others trained, from a random initialisation
        return backbone.eval()
    directory = _directory(Path(spec))
    try:
        config = json.loads((directory / DESCRIPTION).read_text())["config"]
        config = {**config, "image_size": image_size or config["image_size"]}
    except (ValueError, KeyError, TypeError) as error:
        raise UsageError(f"{directory / DESCRIPTION} is damaged ({error!r}); export the encoder again") from error
    with torch.random.fork_rng(devices=[]):  # the initial weights are overwritten: loading must not move the generator
        backbone = build_backbone(**config | {"pretrained": False})
    backbone.pretrained = config.get("pretrained", False)
    path = directory / WEIGHTS
    load_weights(backbone.model, read_weights(path), origin=path, minimum=1.0)
    return backbone.eval()


def _directory(path: Path) -> Path:
    """The directory that holds both files."""
    if path.suffix == ".safetensors" and path.is_file():
        if (path.parent / DESCRIPTION).is_file():
            return path.parent
        raise UsageError(f"no {DESCRIPTION} beside {path}; build_backbone(NAME, pretrained=PATH) loads bare weights")
    if not path.exists():
        siblings = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"did you mean {path.parent / near[0]}?" if near else "give a run directory, or timm:NAME"
        raise UsageError(f"no encoder at {path}; {hint}")
    if path.is_dir() and (path / WEIGHTS).is_file() and (path / DESCRIPTION).is_file():
        return path
    if (path / "config.yaml").is_file():
        raise UsageError(f"the run {path} has no encoder yet, so it has not finished; continue it with --resume {path}")
    raise UsageError(f"{path} holds no encoder ({WEIGHTS} and {DESCRIPTION}); give a run directory")


def _write(path: Path, write: Callable[[Path], Any]) -> None:
    """Write beside the target, then rename: a reader sees the old file or the new one."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        write(partial)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
