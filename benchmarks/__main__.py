"""`python -m benchmarks [NAME ...]`: measure, write JSON, make the page."""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import page, reliability
from benchmarks.environment import enter, machine, machine_name
from benchmarks.tables import RESULTS

NAMES = (
    "losses",
    "loader",
    "evaluation",
    "search",
    "growth",
    "packing",
    "profile",
    "masks",
    "backbones",
    "sequences",
    "generation",
    "pretrain",
    "quality",
    "fuzz",
    "kills",
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure Glocal beside its peers.")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join(NAMES)}; by default all but the last three"
    )
    parser.add_argument("--photos", type=Path, help="a folder of photographs; by default 1,000 generated ones")
    parser.add_argument("--out", type=Path, default=RESULTS, help="where the JSON files go")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in NAMES]:
        parser.error(f"no benchmark named {', '.join(unknown)}; there are {', '.join(NAMES)}")
    enter()
    os.environ.setdefault("GLOCAL_CACHE", str(Path("runs/benchmarks/cache").resolve()))
    for name in arguments.names or NAMES[:-3]:  # quality needs CIFAR-10; the others damage and kill
        started = time.monotonic()
        print(f"{name} ...", flush=True)
        path = run(name, arguments.photos, arguments.out)
        print(f"{name}: {path} in {time.monotonic() - started:.0f} s", flush=True)
    if arguments.out == RESULTS:
        print(page.write_page(), reliability.write_page(), sep="\n")


def run(name: str, folder: Path | None, out: Path) -> Path:
    """Measure one benchmark and keep what it found, with the machine it was found on."""
    about = machine()  # before: the load that was there without us
    module = importlib.import_module(f"benchmarks.{name}")
    path, started = out / machine_name(about) / f"{name}.json", time.monotonic()
    partial = path.with_suffix(".partial")  # of a run that is cut off, what it has measured: some go on from there
    before = json.loads(partial.read_text())["measured"] if partial.exists() else {}

    def keep(measured: dict[str, Any]) -> None:
        if "folder" in options:
            measured["photos"] = "given" if folder else "1,000 generated ones of 500×375"
        kept = {"benchmark": name, "machine": about, "seconds": round(time.monotonic() - started), "measured": measured}
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(kept, indent=1) + "\n")

    given = {"folder": folder, "keep": keep, "before": before}  # to those that look at photographs, and that take long
    options = {key: given[key] for key in inspect.signature(module.measure).parameters.keys() & given.keys()}
    keep(module.measure("full", **options))
    return partial.rename(path)


if __name__ == "__main__":
    main()
