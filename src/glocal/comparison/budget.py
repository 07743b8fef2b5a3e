"""How long each method of a comparison may train."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from glocal.errors import UsageError

Unit = Literal["seconds", "epochs", "images"]
SUFFIXES: dict[str, tuple[Unit, float]] = {
    "s": ("seconds", 1),
    "m": ("seconds", 60),
    "h": ("seconds", 3600),
    "ep": ("epochs", 1),
    "img": ("images", 1),
}


@dataclass(frozen=True)
class Budget:
    """An amount of training: seconds on this machine, passes over the data, or images seen (each by all of its views).

    Attributes:
        amount: how much.
        unit: of what.
    """

    amount: float
    unit: Unit

    @classmethod
    def parse(cls, text: str) -> Budget:
        """Read "20m", "90s", "2h", "50ep", "1e6img".

        Raises:
            UsageError: for anything else.
        """
        found = re.fullmatch(r"([\d.]+(?:e\d+)?) ?(s|m|h|ep|img)", text.strip())
        try:
            amount = float(found[1]) if found else 0.0
        except ValueError:
            amount = 0.0
        if not found or amount <= 0:
            raise UsageError(
                f"--budget {text} is no amount of training; write time (90s, 20m, 2h), epochs (50ep), images (1e6img)"
            )
        unit, factor = SUFFIXES[found[2]]
        return cls(amount * factor, unit)

    def steps(self, images: int, batch: int, seconds_per_step: float) -> int:
        """Optimiser steps that it pays for.

        Args:
            images: in the data.
            batch: images a step.
            seconds_per_step: measured for this method; only used by budgets of time.
        """
        if self.unit == "seconds":
            return max(1, int(self.amount / seconds_per_step))
        if self.unit == "images":
            return max(1, round(self.amount / batch))
        return max(1, round(self.amount * (images // batch)))
