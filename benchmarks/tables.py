"""What pages of results are made of: a machine in words, tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
DOCS = Path(__file__).parents[1] / "docs"


def read(path: Path) -> dict[str, Any] | None:
    """One result, or None where there is none."""
    return json.loads(path.read_text()) if path.exists() else None


def title(about: dict[str, Any]) -> str:
    """The machine in a few words."""
    if about["gpu"]:
        return about["gpu"]
    return f"{about['cpu']}, {about['cores']} cores, {about.get('instructions', 'AMX')}"


def measured_on(kept: dict[str, Any]) -> str:
    """The machine, in one line."""
    about = kept["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in about["versions"].items() if version)
    where = about["gpu"] or f"{about['cpu']}, {about['cores']} cores, {about['threads']} threads"
    return f"*{where}; load {about['load']} at the start; Python {about['python']}, {versions}; {kept['seconds']} s.*"


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def number(value: float | None) -> str:
    """Three digits."""
    if value is None:
        return "–"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
