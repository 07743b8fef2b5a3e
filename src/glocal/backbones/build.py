"""`build_backbone`: any timm architecture by name, and those that timm lacks, ours and others' (`glocal.plugins`).

What builds such a model is a function of keyword arguments (what it knows of `num_classes`, which is 0,
`drop_path_rate`, `output_stride`, `img_size`); the model has what a timm model has: `forward_features`, `forward_head`,
and `pretrained_cfg` with "input_size", "mean" and "std".
"""

import difflib
import fnmatch
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from glocal.backbones.backbone import Backbone, Pool
from glocal.backbones.text import TextBackbone, TextModel
from glocal.backbones.weights import load_weights, read_weights
from glocal.errors import UsageError
from glocal.plugins import GUIDE, find, names

_FLAGS = {
    "img_size": "--image-size",
    "patch": "--patches",
    "output_stride": "--output-stride",
    "drop_path_rate": "--drop-path",
}


def build_backbone(
    name: str,
    *,
    pretrained: bool | str | Path = False,
    image_size: int | None = None,
    stem: Literal["native", "cifar"] = "native",
    output_stride: int | None = None,
    patch: int | None = None,
    drop_path: float = 0.0,
    pool: Pool = "native",
    code: int | None = None,
    earlier: bool = False,
) -> Backbone:
    """A timm model as a `Backbone`; unless pretrained, initialised as timm does it (ResNets with `zero_init_last`).

    Args:
        name: a timm model name, optionally with the tag of its weights: "resnet50", "resnet50.a1_in1k"; or one
            registered under the entry-point group `glocal.backbones`: "co_resnet50_rf99", "bagnet17".
        pretrained: True for timm's published weights, the name of others that it has ("resnet50.tv_in1k"), or the path
            of a run or a local file (.safetensors, .pth, .pt): timm's, torchvision's, DINO's names of the tensors.
        image_size: side in pixels that the model is made for; sets the position embeddings of a ViT. Other sizes still
            run where the architecture takes them. Default: what timm's weights were made for.
        stem: "cifar" replaces a ResNet's first convolution by a 3×3 of stride 1 and drops the max-pooling, for images
            of about 32 px; strides become four times smaller.
        output_stride: real pixels per cell of the last map, reached by dilation in place of stride: 8, 16 or 32, and 2,
            4 or 8 with the cifar stem.
        patch: of networks whose patches can be resized, their side in pixels: what `Backbone.patch` is at first.
        drop_path: stochastic depth, probability of dropping the deepest residual branch (linear from 0 at the first).
        pool: see `Backbone`.
        code: width of a linear map behind the features, see `Backbone.add_code`.
        earlier: its tokens are those of `Backbone.earlier`.

    Raises:
        UsageError: for an unknown name, an option the architecture lacks, weights that are not there or do not fit.
    """
    import timm  # seconds: only when a model is built

    create = _builder(name, download=pretrained is True)
    if stem not in ("native", "cifar"):
        raise UsageError(f"unknown stem '{stem}'; choose native or cifar")
    if stem != "native" and name in names("backbones"):
        raise UsageError(f"{name} comes with a stem of its own; leave out stem={stem}")
    if pretrained is True and (name in names("backbones") or not timm.models.is_model_pretrained(name)):
        if timm.is_model_pretrained(name) and (theirs := timm.models.get_pretrained_cfg(name)):  # of this name
            remedy = f"to begin with timm's, give --pretrained {name}.{theirs.tag}"
            raise UsageError(f"{name} comes without weights; {remedy}")
        raise UsageError(f"timm has no pretrained weights for {name}; give a local file, or leave out pretrained")
    required: dict[str, Any] = {}
    if output_stride is not None:
        required["output_stride"] = _timm_output_stride(output_stride, stem)
    if patch is not None:
        required["patch"] = patch
    if drop_path:
        required["drop_path_rate"] = drop_path
    optional: dict[str, Any] = {"num_classes": 0, "img_size": image_size, "dynamic_img_size": True}
    model = _create(name, create, required, optional, download=pretrained is True)
    if not isinstance(model, TextModel):
        _check(model, name)
    if stem == "cifar":
        _replace_stem(model, name)
    if pretrained and pretrained is not True:
        load_weights(model, _weights(pretrained), origin=pretrained)
    arguments: dict[str, Any] = {"name": name, "image_size": image_size, "stem": stem, "output_stride": output_stride}
    arguments |= {"patch": patch, "drop_path": drop_path, "pool": pool}
    arguments["pretrained"] = pretrained if isinstance(pretrained, bool) else str(pretrained)
    if isinstance(model, TextModel):
        return TextBackbone(model, arguments)  # type: ignore[return-value]  # what asks for images checks `reads`
    backbone = Backbone(model, arguments)
    if code is not None:
        backbone.add_code(code)
    if output_stride is not None and backbone.stride != output_stride:
        raise UsageError(f"{name} cannot have output_stride={output_stride}; its stride is {backbone.stride}")
    return backbone.earlier() if earlier else backbone


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that `build_backbone` takes and that match `pattern`: a part of the name, or one with * wildcards."""
    import timm

    pattern = pattern if "*" in pattern else f"*{pattern}*"
    return sorted({*timm.list_models(pattern), *fnmatch.filter(names("backbones"), pattern)})


def _builder(name: str, *, download: bool) -> Callable[..., nn.Module]:
    """What builds the model of that name; one that neither timm has nor anybody registered is refused."""
    import timm

    registered = names("backbones")
    if ":" in name or name in registered:
        return find("backbones", name)
    architecture, _, tag = name.partition(".")
    if not timm.is_model(architecture):
        near = difflib.get_close_matches(architecture, [*timm.list_models(), *registered], n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}?" if near else "see glocal backbones"
        raise UsageError(f"unknown backbone '{name}'; {hint}")
    if tag and name not in (known := timm.list_pretrained(f"{architecture}.*")):
        raise UsageError(f"unknown weights '{tag}' of {architecture}; timm has {', '.join(known) or 'none'}")
    return partial(timm.create_model, name, pretrained=download)


def _weights(pretrained: str | Path) -> dict[str, Tensor]:
    """Those of a path, or where there is nothing, timm's of that name."""
    import timm

    name = str(pretrained).removeprefix("timm:")
    if not Path(pretrained).exists() and timm.is_model(name.partition(".")[0]):
        return build_backbone(name, pretrained=True).model.state_dict()
    return read_weights(pretrained)


def _timm_output_stride(output_stride: int, stem: str) -> int:
    """timm counts strides as if the stem were the native one."""
    factor = 4 if stem == "cifar" else 1
    allowed = [stride // factor for stride in (8, 16, 32)]
    if output_stride not in allowed:
        raise UsageError(f"output_stride={output_stride} with the {stem} stem; choose one of {allowed}")
    return output_stride * factor


def _create(
    name: str, create: Callable[..., Any], required: dict[str, Any], optional: dict[str, Any], *, download: bool
) -> nn.Module:
    """The model with those optional arguments that this architecture knows; only trying tells."""
    while True:
        try:
            return create(**required, **optional)
        except TypeError as error:
            unknown = set(re.findall(r"'(\w+)'", str(error).partition("unexpected keyword argument")[2]))
            if lacking := sorted(unknown & required.keys()):
                if lacking[0] == "patch":
                    remedy = "leave out --patches, or take a backbone like flexivit_small"
                    raise UsageError(f"{name} has no patches to choose from; {remedy}") from error
                raise UsageError(f"{name} has no {lacking[0].removesuffix('_rate')}; leave it out") from error
            if not unknown & optional.keys():
                raise
            optional = {key: value for key, value in optional.items() if key not in unknown}
        except (AssertionError, ValueError) as error:
            given = {**optional, **required}
            wanted = ", ".join(f"{flag} {given[key]}" for key, flag in _FLAGS.items() if given.get(key) is not None)
            what = f"{name} cannot be built" + f" with {wanted}" * bool(wanted)
            raise UsageError(f"{what}: {error or 'timm refuses these values'}") from error
        except Exception as error:
            if not download:
                raise
            reason = str(error).strip().partition("\n")[0]
            raise UsageError(
                f"the weights of {name} could not be downloaded; check the network, or give a local file with"
                f" pretrained=PATH ({reason})"
            ) from error


def _replace_stem(model: nn.Module, name: str) -> None:
    """The CIFAR stem of He et al. 2016: 3×3 convolution of stride 1, no max-pooling."""
    conv = getattr(model, "conv1", None)
    if not isinstance(conv, nn.Conv2d) or not hasattr(model, "maxpool"):
        raise UsageError(f"{name} has no ResNet stem to replace; leave out stem=cifar")
    model.conv1 = nn.Conv2d(3, conv.out_channels, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    model.maxpool = nn.Identity()


def _check(model: Any, name: str) -> None:
    """Refuse a model that lacks what `Backbone` asks of it."""
    lacking = [part for part in ("forward_features", "forward_head", "pretrained_cfg") if not hasattr(model, part)]
    config = getattr(model, "pretrained_cfg", {})
    lacking += [f"pretrained_cfg[{key!r}]" for key in ("input_size", "mean", "std") if key not in config]
    if lacking:
        raise UsageError(f"backbone '{name}': `{type(model).__name__}` lacks `{lacking[0]}` ({GUIDE})")
