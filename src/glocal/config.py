"""The configuration of a pretraining run, written once: `glocal.pretrain`, the command and config.yaml follow it."""

import math
import re
import types
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Any, Literal, Self, Union, get_args, get_origin, get_type_hints

from glocal.errors import UsageError

RENAMED = {"trust": "trust_coefficient"}
"""Options by the names that older config.yaml files have."""
SHARED = frozenset({"image_size", "patch_drop"})
"""Options of a run that are handed to those methods whose constructors have them."""
ABSENT = {"cache": False, "compile": False, "gentle": False, "layer_decay": 1.0, "guard": False}
"""What runs did from before there was such an option."""
NATIVE = "give the least and the most pixels of a photograph's side, were it square, as in --native 64-256"


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """All of a run: what each option means is said at `glocal.pretrain`, whose keywords these are.

    None is what `glocal.training.resolve` decides. `options` are the method's own: keywords of its constructor.

    Raises:
        UsageError: for a value of another type, or one that makes no sense.
    """

    # the network
    backbone: str = "resnet50"
    image_size: int = 224
    pretrained: bool | str = False
    gentle: bool | None = None
    layer_decay: float | None = None
    lora: int = 0
    guard: bool | None = None
    stem: Literal["native", "cifar"] = "native"
    output_stride: int | None = None
    drop_path: float | None = None
    # photographs in their own shapes
    native: str | None = None
    tokens: int | None = None
    patch_drop: float | None = None
    patches: tuple[int, ...] | None = None
    recompute: bool = False
    # frames of videos
    max_gap: str | None = None
    # what of the method's own optimisation is replaced
    optimizer: Literal["lars", "adamw", "sgd"] | None = None
    lr: float | None = None
    weight_decay: float | None = None
    warmup_epochs: float | None = None
    trust_coefficient: float | None = None
    clip: float = 0.0
    # the machine
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    precision: Literal["bf16-mixed", "16-mixed", "32", "32-true"] | None = None
    workers: int | None = None
    threads: int | None = None
    cache: bool | None = None
    compile: bool | None = None
    deterministic: bool = False
    small_maps: list[int] | None = None
    # the run
    data: str | list[str] | None = None
    method: str = "vicregl"
    preset: str | None = None
    epochs: int | None = None
    max_steps: int | None = None
    batch_size: int | None = None
    accumulate: int = 1
    seed: int = 0
    monitor_every: int | None = None
    checkpoint_steps: int = 0
    report: bool = True
    report_images: int = 2000
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for name, value in self.settings().items():
            if not _fits(value, hints[name]):
                raise UsageError(f"{_flag(name)} {value!r} is not {in_words(hints[name])}")
            least, most = _RANGES.get(name, (-math.inf, math.inf))
            if name in _RANGES and value is not None and not least <= value <= most:
                bound = (
                    f"small; it must be at least {least}" if value < least else f"large; it must be at most {most:g}"
                )
                raise UsageError(f"{_flag(name)} {value} is too {bound}")
        if self.native is None and self.tokens is not None:
            raise UsageError(f"--tokens {self.tokens} is the length of packed sequences: give --native LEAST-MOST, too")
        if self.native is not None and not 1 <= self.native_sides[0] <= self.native_sides[1] <= 8192:
            raise UsageError(f"--native {self.native}: {NATIVE}, at most 8192")
        assert self.gap >= 0
        if self.small_maps is not None and (len(self.small_maps) != 2 or min(self.small_maps) < 0):
            raise UsageError(f"--small-maps {self.small_maps} are not two numbers of cells")
        if wrong := [patch for patch in self.patches or () if patch < 1 or self.image_size % patch]:
            fitting = [side for side in range(2, self.image_size + 1) if self.image_size % side == 0]
            what = f"--patches {wrong[0]} does not divide --image-size {self.image_size}"
            raise UsageError(f"{what}; choose from {', '.join(map(str, fitting))}")
        if self.batch_size is not None and self.batch_size % self.accumulate:
            raise UsageError(f"--batch-size {self.batch_size} is not a multiple of --accumulate {self.accumulate}")

    @property
    def native_sides(self) -> tuple[int, int]:
        """The numbers of `native`."""
        least, _, most = str(self.native).partition("-")
        if not (least.isdecimal() and most.isdecimal()):
            raise UsageError(f"--native {self.native}: {NATIVE}")
        return int(least), int(most)

    @property
    def gap(self) -> float:
        """Seconds of `max_gap`, 0 where there is none."""
        found = re.fullmatch(r"(\d+\.?\d*|\.\d+) ?s?", self.max_gap or "0")
        if not found:
            raise UsageError(f"--max-gap {self.max_gap} is no time: give seconds, as in --max-gap 2s")
        return float(found[1])

    @property
    def encoder_options(self) -> dict[str, Any]:
        """The keywords of `build_backbone`, beside the name and the method's pool."""
        names = "image_size", "pretrained", "stem", "output_stride"
        middle = sorted(self.patches)[len(self.patches) // 2] if self.patches else None
        return {name: getattr(self, name) for name in names} | {"drop_path": self.drop_path or 0.0, "patch": middle}

    @property
    def processes(self) -> int:
        """On all machines together."""
        return self.devices * self.num_nodes

    def settings(self) -> dict[str, Any]:
        """The run's options without the method's."""
        return {name.name: getattr(self, name.name) for name in fields(self) if name.name != "options"}

    def to_dict(self) -> dict[str, Any]:
        """One flat mapping, as config.yaml holds it: the run's options, then the method's."""
        plain = {**self.settings(), **self.options}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], *, origin: str = "") -> Self:
        """Read what `to_dict` wrote, this version's or an older one's: what is no option of a run is the method's.

        `UsageError` as of the constructor, with the file's name `origin`.
        """
        known = {name.name for name in fields(cls)} - {"options"}
        values = {RENAMED.get(name, name): value for name, value in values.items()}
        try:
            hints = _hints(cls)
            own = {name: _number(value, hints[name]) for name, value in values.items() if name in known}
            return cls(**own, options={name: value for name, value in values.items() if name not in known})
        except UsageError as error:
            raise UsageError(f"{origin}: {error}" if origin else str(error)) from error

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        default, mine = PretrainConfig().settings(), {**self.settings(), **self.options}
        return {name: value for name, value in mine.items() if value != default.get(name)}


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(PretrainConfig):
    """All of a run that masks an encoder's weights: what each option means is said at `glocal.adapt`.

    Of a round of pruning, `keep` is what is left after it, and `pruned_by` the run of the round before.
    """

    by: Literal["mask", "prune"] = "mask"
    keep: float = 1.0
    prune_rounds: int = 1
    pruned_by: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.keep <= 1:
            raise UsageError(f"--keep {self.keep:g}: give the share of the weights to keep, above 0 and at most 1")
        if not 1 <= self.prune_rounds <= 100:
            raise UsageError(f"--rounds {self.prune_rounds}: weights are left out in 1 to 100 rounds")


_COUNTS = "epochs", "max_steps", "accumulate", "num_nodes", "monitor_every"
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(_COUNTS, (1, 1e9)),
    **dict.fromkeys(("devices", "threads"), (1, 1024)),
    **dict.fromkeys(("checkpoint_steps", "seed"), (0, 1e18)),
    **dict.fromkeys(("lr", "weight_decay", "warmup_epochs", "trust_coefficient", "clip"), (0, 1e30)),
    "workers": (0, 1024),
    "image_size": (8, 8192),
    "batch_size": (2, 1e7),
    "report_images": (10, 1e9),
    "drop_path": (0, 0.999),
    "patch_drop": (0, 0.99),
    "tokens": (1, 1e6),
    "layer_decay": (0, 1),
    "lora": (0, 1024),
}


def reserved_names() -> frozenset[str]:
    """Names that a method's own options cannot have, since they are those of `glocal.pretrain`."""
    beside = {"out", "resume", "quiet", "trust_code", "accept_changed_data", "config", "fps"}
    return frozenset(name.name for name in fields(AdaptConfig)) - {"backbone", *SHARED} | beside


_hints: Callable[[Any], dict[str, Any]] = cache(get_type_hints)


def _number(value: Any, hint: Any) -> Any:
    """YAML reads 1e-3 as a word: the number it means, where the option is one."""
    if isinstance(value, str) and hint in (float, float | None):
        with suppress(ValueError):
            return float(value)
    return value


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a type: as isinstance, but an int is a float, and a bool is no int."""
    if get_origin(hint) in (Union, types.UnionType):
        return any(_fits(value, part) for part in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(item, get_args(hint)[0]) for item in value)
    if isinstance(value, bool):
        return hint is bool
    return isinstance(value, (int, float) if hint is float else hint)


def in_words(hint: Any) -> str:
    """A type as a person reads it: 'a whole number', 'student or teacher'; none goes without saying."""
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(in_words(part) for part in get_args(hint) if part is not types.NoneType)
    if get_origin(hint) is Literal:
        return " or ".join(map(str, get_args(hint)))
    if get_origin(hint) is tuple:
        return "numbers like " + ",".join(["4", "6", "8"][: sum(part is not ... for part in get_args(hint))])
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}
    return "like '{name: value}'" if get_origin(hint) in (dict, Mapping) else names.get(hint, "a list")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
