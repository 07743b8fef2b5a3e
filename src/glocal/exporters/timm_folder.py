"""A folder that timm opens by itself, in the format of its models on the Hugging Face Hub."""

import copy
import itertools
import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.config import PretrainConfig
from glocal.errors import UsageError
from glocal.evaluation.extract import CROP_PCT
from glocal.exporters.staging import MARK, staged_folder
from glocal.methods import citation
from glocal.run import Run

_POOL_ARGUMENTS: dict[str, list[dict[str, Any]]] = {
    "native": [{}],
    "cls": [{"global_pool": "token"}, {}],
    # The norm comes before the mean in ours; timm says that in a ViT with fc_norm, in a ConvNeXt with head_norm_first.
    "mean": [{"global_pool": "avg", "fc_norm": False}, {"head_norm_first": True}, {"global_pool": "avg"}, {}],
}
_MOVED_NORMS = {"fc_norm.": "norm.", "head.norm.": "norm_pre."}
TOLERANCE = 1e-4


def export_timm(backbone: Backbone, out: Path, *, about: Mapping[str, str] | None = None) -> None:
    """Writes config.json, model.safetensors and a model card for `timm.create_model('local-dir:OUT', pretrained=True)`.

    `about` are rows for the model card, e.g. {"Method": "VICRegL", "Images": "12,345"}.

    Raises:
        UsageError: if `out` is taken or timm's arguments cannot express the architecture.
        RuntimeError: if the folder, opened again, does not give the same features; nothing is written then.
    """
    encoder = copy.deepcopy(backbone).cpu().float().eval()
    size = encoder.image_size
    pixels = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    # Building models draws from the global generator, whose state is put back.
    with staged_folder(out) as folder, torch.random.fork_rng(devices=[]), torch.no_grad():
        pooled = encoder(pixels).pooled
        if not pooled.isfinite().all():
            raise UsageError(f"the features of this {encoder.name} are not finite: its training diverged")
        architecture, arguments, state, same_pool = _express(encoder, pixels, pooled)
        (folder / "config.json").write_text(json.dumps(_config(encoder, architecture, arguments), indent=2) + "\n")
        save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
        late_norm = next((name for name in ("fc_norm", "head.norm") if f"{name}.weight" in state), None)
        card = _card(encoder, architecture, out.name, same_pool, late_norm, about or {})
        (folder / "README.md").write_text(card, encoding="utf-8")
        opened = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
        expected = pooled if same_pool else encoder.model(pixels)
        if not _close(opened(pixels), expected):
            raise RuntimeError(f"{architecture} opened again by timm does not give the same features")


def _express(encoder: Backbone, pixels: Tensor, pooled: Tensor) -> tuple[str, dict[str, Any], dict[str, Tensor], bool]:
    """(timm's name, arguments, weights under the names that go with them, whether it then pools as the encoder does).

    timm does not say which arguments an architecture takes or what they do to its pooling, so they are tried in turn,
    from the most to the least telling.
    """
    architecture, always, weights = encoder.name.partition(".")[0], {}, encoder.model.state_dict()
    if hasattr(encoder.model, "plain"):  # not timm's, but can be said in its words
        architecture, always, weights = encoder.model.plain(encoder.image_size)
    size, stride, fallback = {"img_size": encoder.image_size}, encoder.config["output_stride"], None
    sizes: list[dict[str, Any]] = [{**size, "dynamic_img_size": True}, {**size}, {}]
    for size_arguments, pool_arguments in itertools.product(sizes, _POOL_ARGUMENTS[encoder.pool]):
        arguments = always | size_arguments | ({"output_stride": stride} if stride else {}) | pool_arguments
        try:
            model = timm.create_model(architecture, num_classes=0, **arguments).eval()
            state = _renamed(weights, model)
            model.load_state_dict(state)
        except (TypeError, AssertionError, RuntimeError, ValueError):
            continue
        output = model(pixels)
        if _close(output, pooled):
            return architecture, arguments, state, True
        if fallback is None and _close(output, encoder.model(pixels)):
            fallback = architecture, arguments, state, False
    if fallback is None:
        stem = encoder.config["stem"]
        what = f"the {stem} stem of {encoder.name}" if stem != "native" else encoder.name
        raise UsageError(f"timm's arguments cannot express {what}; export it as onnx or torch-export instead")
    return fallback


def _renamed(state: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """The weights with a final norm under the name that the model has for it."""
    own, renamed = model.state_dict(), {}
    for key, value in state.items():
        for old, new in _MOVED_NORMS.items():
            if key not in own and key.startswith(old):
                key = new + key.removeprefix(old)
        renamed[key] = value.detach().contiguous()
    return renamed


def _close(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and float((a - b).abs().max()) <= TOLERANCE * float(b.abs().max())


def _config(encoder: Backbone, architecture: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """timm's config.json. Preprocessing is that of glocal's evaluation."""
    known: dict[str, Any] = encoder.model.pretrained_cfg
    return {
        "architecture": architecture,
        "num_classes": 0,
        "num_features": encoder.dim,
        "model_args": arguments,
        "pretrained_cfg": {
            "tag": MARK,
            "custom_load": False,
            "input_size": [3, encoder.image_size, encoder.image_size],
            "fixed_input_size": known.get("fixed_input_size", False) and "dynamic_img_size" not in arguments,
            "interpolation": "bicubic",
            "crop_pct": CROP_PCT,
            "crop_mode": "center",
            "mean": list(encoder.mean),
            "std": list(encoder.std),
            "num_classes": 0,
            "first_conv": known.get("first_conv"),
            "classifier": known.get("classifier"),
        },
        MARK: {"version": version("glocal"), "pool": encoder.pool, "stride": encoder.stride, "offset": encoder.offset},
    }


def _card(
    encoder: Backbone, architecture: str, name: str, same_pool: bool, late_norm: str | None, about: Mapping[str, str]
) -> str:
    rows = {
        **about,
        "Architecture": f"{architecture}, {sum(p.numel() for p in encoder.model.parameters()) / 1e6:.1f} M parameters",
        "Features": f"{encoder.dim} per image, and per location every {encoder.stride} px",
        "Image size": f"{encoder.image_size} px",
        "Pooling": encoder.pool,
        "Made with": f"glocal {version('glocal')}, timm {timm.__version__}",
    }
    table = "\n".join(f"| {key} | {value} |" for key, value in rows.items())
    notes = "`model(images)` gives pooled features, `model.forward_features(images)` the last feature map or tokens."
    if late_norm:
        notes += f" Glocal's dense features are the latter after `model.{late_norm}`, location by location."
    if not same_pool:
        notes += f" Note: the pooled features are timm's own. '{encoder.pool}' pooling, as in training, cannot be"
        notes += " said to timm for this architecture; an ONNX export has it."
    return f"""---
library_name: timm
tags: [timm, image-feature-extraction]
---
# {name}

A vision encoder, exported by glocal. No licence is stated: add yours before sharing.

| | |
|---|---|
{table}

```python
import timm  # 1.0.25 or later
model = timm.create_model("local-dir:{name}", pretrained=True).eval()  # num_classes=10 adds a new classifier
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
```

{notes}
"""


def encoder_card(encoder: str | Path) -> dict[str, str] | None:
    """Rows for the model card of an encoder that a run has trained; None for another."""
    run = Run(encoder)
    if not run.config_file.exists():
        return None
    config, facts = PretrainConfig.from_dict(run.config()), run.encoder().get("extra", {})
    title, paper = citation(config.method)
    return {
        "Method": title,
        "Paper": paper,
        "Images": f"{facts.get('images', 0):,}",
        "Steps": f"{facts.get('steps', 0):,}",
        "Image size": f"{config.image_size} px",
    }
