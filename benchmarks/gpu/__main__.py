"""`python -m benchmarks.gpu`: all steps, each in its own process and time; one JSON and one page."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.gpu.notes import Notes, read
from benchmarks.gpu.stand_in import ROOT, stand_in
from benchmarks.photos import photograph

STEPS = {"collectives": 45, "devices": 45, "methods": 140, "runs": 100, "traces": 80, "rates": 300}
"""Files beside this one, in the order in which they run, and the seconds that each may take."""
ALL = 560  # seconds, in which the machine and the first import must fit as well: ten minutes are lent


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description="What only a GPU can show.")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"{', '.join(STEPS)}; by default all")
    parser.add_argument("--out", type=Path, help="a folder; by default benchmarks/results, without a GPU runs/gpu")
    parser.add_argument("--step", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    stood_in = stand_in()
    if arguments.step:
        name, file, device, folder = arguments.step
        step(name, Notes(Path(file), device, Path(folder)))
        return 0
    if unknown := [name for name in arguments.steps if name not in STEPS]:
        parser.error(f"no step named {', '.join(unknown)}; there are {', '.join(STEPS)}")
    with tempfile.TemporaryDirectory() as folder:
        found = measure([name for name in STEPS if name in (arguments.steps or STEPS)], Path(folder), in_process)
    found["stood_in"] = stood_in
    return conclude(found, arguments.out)


def step(name: str, notes: Notes) -> None:
    """What the file of this name measures."""
    importlib.import_module(f"benchmarks.gpu.{name}").measure(notes)


def measure(names: list[str], folder: Path, run: Callable[[str, Notes, float], str]) -> dict[str, Any]:
    """All these steps in turn, whatever becomes of each.

    Args:
        names: of the steps.
        folder: for what they make.
        run: (name, notes, seconds) -> how it ended, "" where it finished.
    """
    started = time.monotonic()
    from benchmarks.environment import machine

    about = machine()
    device = "cuda" if about["gpu"] else "cpu"
    count, size = (1000, (500, 375)) if about["gpu"] else (24, (96, 72))
    (folder / "photos").mkdir()
    with ProcessPoolExecutor() as pool:
        list(pool.map(_photograph, *zip(*[(folder / "photos", i, size) for i in range(count)], strict=True)))
    steps, patience = {}, 1 if about["gpu"] else 5  # nobody lends a CPU by the minute
    for name in names:
        began = time.monotonic()
        notes = Notes(folder / f"{name}.jsonl", device, folder)
        print(f"{name} ...", flush=True)
        ended = run(name, notes, min(patience * STEPS[name], patience * ALL - (began - started)))
        spent = round(time.monotonic() - began)
        print(f"{name}: {ended or 'finished'}, {spent} s", flush=True)
        steps[name] = {"ended": ended, "seconds": spent, "checks": read(notes.file)}
    return {"machine": about, "seconds": round(time.monotonic() - started), "steps": steps}


def _photograph(folder: Path, number: int, size: tuple[int, int]) -> None:
    photograph(number, size).save(folder / f"{number:04d}.jpg", quality=90)


def in_process(name: str, notes: Notes, seconds: float) -> str:
    """A step in an interpreter of its own, which ends with all that it started when the time is over.

    What breaks a GPU's context ends no other step; and CUDA, once awake, survives no fork.
    """
    if seconds < 5:
        return "no time was left"
    words = [name, str(notes.file), notes.device, str(notes.folder)]
    command = [sys.executable, "-m", "benchmarks.gpu", "--step", *words]
    child = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = child.wait(seconds)
        return f"exit code {code}" if code else ""
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def conclude(found: dict[str, Any], out: Path | None) -> int:
    """Write the JSON and the page; 1 where anything failed."""
    from benchmarks.__main__ import RESULTS
    from benchmarks.environment import machine_name
    from benchmarks.gpu.page import page

    gpu = found["machine"]["gpu"]
    folder = (out or (RESULTS if gpu else ROOT / "runs" / "gpu")) / machine_name(found["machine"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(found, indent=1) + "\n")
    (folder / "gpu.md").write_text(page(found))
    checks = [check for one in found["steps"].values() for check in one["checks"]]
    counts = {word: sum(check["outcome"] == word for check in checks) for word in ("passed", "skipped", "failed")}
    print(f"{folder / 'gpu.md'}: " + ", ".join(f"{number} {word}" for word, number in counts.items()))
    return int(counts["failed"] > 0 or any(one["ended"] for one in found["steps"].values()))


if __name__ == "__main__":
    sys.exit(main())
