"""Methods by name (`glocal.plugins`), what a class must have to be one, and its options."""

import inspect
from collections.abc import Mapping
from typing import Any, Literal

from torch import nn

from glocal.config import reserved_names
from glocal.errors import UsageError, did_you_mean
from glocal.losses import Loss
from glocal.methods.published import Optimization, Preset
from glocal.plugins import GUIDE, find, names
from glocal.views import Recipe

SHARED_OPTIONS = {
    "image_size": "side in pixels of the crops: of the large ones, where there are small ones too.",
    "scale": "area of a crop (a large one, where there are small ones) as a fraction of its image, (least, most).",
    "small_crops": "number of small crops, which only predict.",
    "small_size": "side of the small crops, pixels.",
    "small_scale": "area of a small crop as a fraction of its image, (least, most).",
    "projector": "widths of the projector's layers.",
}
"""What options mean that many methods have, whose docstrings say the others."""
_LEFT_OUT: dict[str, Any] = {
    "paper": "",
    "pool": "native",
    "presets": {},
    "least_cells": 0,
    "teacher_momentum": None,
    "needs": {},
    "native": False,
    "reads": "images",
    "backbone": "resnet50",
}
_PRESETS: dict[str, Preset] = {"paper": lambda batch: {}, "small": lambda batch: {}}


def method_names(reads: Literal["images", "clips", "text"] | None = None) -> list[str]:
    """The registered methods' names, sorted; of those that read images, or clips of them, or text."""
    return [name for name in names("methods") if reads in (None, method_class(name).reads)]


def method_class(name: str) -> Any:
    """The class registered as `name`, or that at "module:Class", with `title` and whatever else it may leave out."""
    cls = find("methods", name)
    if breach := _breach(cls):
        raise UsageError(f"method '{name}': {breach} ({GUIDE})")
    for attribute, value in {"title": cls.__name__, **_LEFT_OUT}.items():
        if not hasattr(cls, attribute):
            setattr(cls, attribute, value)
    return cls


def citation(name: str) -> tuple[str, str]:
    """Title and paper of a registered method; of any other just its name, since nothing is imported for it."""
    cls = method_class(name) if name in names("methods") else None
    return (cls.title, cls.paper) if cls else (name, "")


def check_built(method: Any) -> Any:
    """The method, if it has what the loop asks of it; else its author is told."""
    for attribute, kind in {"encoder": nn.Module, "recipe": Recipe, "optimization": Optimization}.items():
        if not isinstance(getattr(method, attribute, None), kind):
            raise UsageError(f"`{type(method).__name__}` sets no `{attribute}`, of type {kind.__name__} ({GUIDE})")
    return method


def check_loss(loss: Any, method: Any) -> Loss:
    """What `forward` returned, if it is a `Loss`; a `UsageError` to its author, if not."""
    if isinstance(loss, Loss):
        return loss
    said = f"`{type(method).__name__}.forward` returns {type(loss).__name__}, not a Loss"
    raise UsageError(f"{said}: give Loss.of({{'name': term}}) ({GUIDE})")


def method_options(cls: Any) -> dict[str, inspect.Parameter]:
    """A method's options: its constructor's parameters, but for the first, the backbone."""
    parameters = list(inspect.signature(cls).parameters.values())[1:]
    return {p.name: p for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}


def resolve_options(
    cls: Any, preset: str, batch: int, given: Mapping[str, Any], family: str | None = None
) -> dict[str, Any]:
    """Every option of a method: its defaults, under the preset's for a batch size, under those given.

    A family of backbones has a preset of its own where the method has one of that name: "paper-vit". A preset may also
    name `drop_path`, which is the backbone's.

    Raises:
        UsageError: for an unknown option or preset, with the nearest name.
    """
    known, presets = method_options(cls), {**_PRESETS, **cls.presets}
    if preset not in presets:
        raise UsageError(f"{cls.title} has no preset '{preset}' (there are: {', '.join(presets)})")
    chosen = {**presets.get(f"{preset}-{family}", presets[preset])(batch), **given}
    for name in chosen:
        if name not in known and name != "drop_path":
            raise UsageError(f"{cls.title} has no option '{name}'{did_you_mean(name, known)}")
    return {name: parameter.default for name, parameter in known.items()} | chosen


def _breach(cls: Any) -> str | None:
    """What keeps this from being a method, for its author."""
    if not (isinstance(cls, type) and issubclass(cls, nn.Module)):
        return f"`{getattr(cls, '__name__', cls)}` is not a class of nn.Module"
    options, who = method_options(cls), f"`{cls.__name__}`"
    if "image_size" not in options:
        return f"{who} lacks `image_size` in its constructor, which is (backbone, *, image_size=224, ...)"
    for name, parameter in options.items():
        if parameter.default is parameter.empty and name != "image_size":
            return f"the option `{name}` of {who} has no default; every one has"
        if name in reserved_names():
            return f"the option `{name}` of {who} is one of every run's; give it another name"
    if cls.forward is nn.Module.forward:
        return f"{who} lacks `forward(batch) -> Loss`"
    return None
