"""One line of a comparison: a method with options."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import yaml

from glocal.errors import UsageError
from glocal.methods import method_class, resolve_options
from glocal.plugins import split


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
    def parse(cls, text: str) -> Entry:
        """Read "METHOD" or "METHOD:OPTION=VALUE,...", values as in YAML; METHOD may be "module:Class".

        Raises:
            UsageError: for an unknown method or option, or a pair that is none.
        """
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
