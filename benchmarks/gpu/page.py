"""The page of `make gpu`."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from benchmarks.tables import measured_on, number, table, title

MARKS = {"passed": "✓", "skipped": "–", "failed": "**✗**"}


def page(found: dict[str, Any]) -> str:
    """All steps and their checks, failures first."""
    checks = [(name, check) for name, step in found["steps"].items() for check in step["checks"]]
    parts = [
        f"# `make gpu` on {title(found['machine'])}",
        f"{measured_on(found)} {'; '.join(found.get('stood_in', []))}".rstrip(),
    ]
    failed = [(name, check["check"], _cell(check["why"])) for name, check in checks if check["outcome"] == "failed"]
    failed += [(name, "the step itself", step["ended"]) for name, step in found["steps"].items() if step["ended"]]
    if failed:
        parts += ["## What failed", table(("Step", "Check", "Why"), failed)]
    for name, step in found["steps"].items():
        document = inspect.getdoc(importlib.import_module(f"benchmarks.gpu.{name}")) or ""
        parts += [f"## {name}, {step['seconds']} s", document.split("\n\n")[0].replace("\n", " ")]
        rows = [
            (check["check"], MARKS[check["outcome"]], _numbers(check["numbers"]), _cell(check["why"]))
            for check in step["checks"]
        ]
        parts.append(table(("Check", "", "Measured", ""), rows))
    return "\n\n".join(parts) + "\n"


def _numbers(numbers: dict[str, Any]) -> str:
    flat = {name: value for name, value in numbers.items() if not isinstance(value, dict | list)}
    said = [f"{name} {number(value) if isinstance(value, float) else value}" for name, value in flat.items()]
    for name, value in numbers.items():
        if isinstance(value, dict):
            said.append(f"{name}: {_numbers(value)}")
        elif isinstance(value, list):
            said.append(f"{name}: {', '.join(map(str, value))}")
    return _cell("; ".join(said))


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "\\|").split())
