"""Numbers as people read them."""

from __future__ import annotations

import math


def score(value: float, *, share: bool) -> str:
    """A score as it is printed: 62.1% or 84.3."""
    if share:
        return f"{100 * value:.1f}%"
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def short_number(value: float, *, digits: int = 3) -> str:
    """A number in about five characters: 0.05, 1.5k, 2M, 3e−5."""
    if not math.isfinite(value):
        return ""
    size = abs(value)
    if size != 0 and (size < 1e-3 or size >= 1e9):
        mantissa, exponent = f"{value:.1e}".split("e")
        text = f"{mantissa.removesuffix('.0')}e{int(exponent)}"
    else:
        limit, letter = (1e6, "M") if size >= 1e6 else (1e3, "k") if size >= 1e4 else (1.0, "")
        text = f"{value:.0f}" if 1000 <= size < 1e4 else f"{value / limit:.{digits}g}{letter}"
    return text.replace("-", "−")


def duration(seconds: float) -> str:
    """8 s, 3 min 20 s, 2 h 05 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
