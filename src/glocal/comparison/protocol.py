"""What is compared: the lines of a comparison, what they share, and how long each may train."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal, Self

import yaml

from glocal.errors import UsageError
from glocal.methods import method_class, resolve_options
from glocal.plugins import split

Unit = Literal["seconds", "epochs", "images"]
SUFFIXES: dict[str, tuple[Unit, int]] = {"s": ("seconds", 1), "m": ("seconds", 60), "h": ("seconds", 3600)}
SUFFIXES |= {"ep": ("epochs", 1), "img": ("images", 1)}


@dataclass(frozen=True)
class Budget:
    """An amount of training: seconds on this machine, epochs, or images seen (each by all of its views)."""

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "20m", "90s", "2h", "50ep", "1e6img"; a `UsageError` for anything else."""
        found = re.fullmatch(r"((?:\d+\.?\d*|\.\d+)(?:e\d+)?) ?(s|m|h|ep|img)", text.strip())
        if not found or float(found[1]) == 0:
            wanted = "write time (90s, 20m, 2h), epochs (50ep), images (1e6img)"
            raise UsageError(f"--budget {text} is no amount of training; {wanted}")
        unit, factor = SUFFIXES[found[2]]
        return cls(float(found[1]) * factor, unit)

    def steps(self, images: int, batch: int, seconds_per_step: float) -> int:
        """Optimiser steps of `batch` images that it pays for, with so many images in the data."""
        if self.unit == "seconds":
            return max(1, int(self.amount / seconds_per_step))
        if self.unit == "images":
            return max(1, round(self.amount / batch))
        return max(1, round(self.amount * (images // batch)))


@dataclass(frozen=True)
class Entry:
    """A method and those of its options that differ from its preset.

    Attributes:
        text: as a person writes it: "vicregl" or "vicregl:alpha=0.75,matches=[10,4]".
        method: its name, or "module:Class".
        options: of the method's constructor.
    """

    text: str
    method: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read "METHOD" or "METHOD:OPTION=VALUE,...", values as in YAML; METHOD may be "module:Class"."""
        method, rest = split("methods", text)
        known = method_class(method)
        options: dict[str, Any] = {}
        for pair in re.split(r",(?![^\[(]*[\])])", rest) if rest else []:
            name, equals, value = pair.partition("=")
            if not equals or not value:
                raise UsageError(f"'{pair}' in '{text}' is not OPTION=VALUE; write for example vicregl:alpha=0.75")
            try:
                options[name.strip().replace("-", "_")] = yaml.safe_load(value)
            except yaml.YAMLError as error:
                raise UsageError(f"'{value}' in '{text}' is no value; write for example matches=[10,4]") from error
        resolve_options(known, "paper", 256, options)  # refuses unknown ones
        return cls(text, method, options)

    @property
    def folder(self) -> str:
        """The text, fit for a file name."""
        return re.sub(r"[^\w.=-]+", "_", self.text).strip("_")


@dataclass(frozen=True)
class Protocol:
    """What all lines of a comparison share.

    Attributes:
        data: images to pretrain on.
        evaluate_on: labelled images; train and test apart.
        budget: as written.
        seeds: how many, from 0.
        tasks: evaluation tasks.
        limit: images that evaluation looks at, at most.
        settings: of `glocal.pretrain`: backbone, image_size, batch_size and so on.
    """

    data: list[str]
    evaluate_on: str
    budget: str
    seeds: int
    tasks: list[str]
    limit: int | None
    settings: dict[str, Any]
