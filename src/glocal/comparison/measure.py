"""A training run in a process of its own, and what it cost."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from glocal.errors import UsageError
from glocal.run import Run, write_json

RAPL = Path("/sys/class/powercap")


@dataclass(frozen=True)
class Cost:
    """What a run took.

    Attributes:
        seconds: of training, by the run's own clock.
        images_per_second: median over its log lines.
        peak_memory: bytes resident on the machine, of the process (not of a GPU).
        joules: of the processor packages while it ran, or None where they cannot be read or it was interrupted.
    """

    seconds: float
    images_per_second: float
    peak_memory: int
    joules: float | None


def train(settings: Path, run: Path) -> Cost:
    """Run `glocal pretrain --config SETTINGS --out RUN`, or go on with it if it was interrupted, and wait.

    What a finished run took is kept in its folder, since going on with it takes nothing. If it fails, a `UsageError`
    has its last line.
    """
    kept = run / "cost.json"
    if kept.exists():
        return Cost(**json.loads(kept.read_text()))
    command = [sys.executable, "-m", "glocal", "pretrain"]
    if resumed := Run(run).has_checkpoint:
        command += ["--resume", str(run)]
    else:
        shutil.rmtree(run, ignore_errors=True)
        command += ["--config", str(settings), "--out", str(run)]
    joules, started = joules_used(), time.monotonic()
    process = subprocess.Popen([*command, "--quiet", "--trust-code"], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        ended = f"signal {-process.returncode}" if process.returncode < 0 else f"code {process.returncode}"
        reason = said.strip().splitlines()[-1] if said.strip() else f"ended by {ended}, perhaps out of memory"
        raise UsageError(f"{shlex.join(command)} failed: {reason}")
    lines = [line for line in Run(run).metrics() if "images_per_second" in line]
    rates = sorted(line["images_per_second"] for line in lines[1:] or lines)
    after = joules_used()
    cost = Cost(
        seconds=lines[-1]["time"] if lines else time.monotonic() - started,
        images_per_second=rates[len(rates) // 2] if rates else 0.0,
        peak_memory=used.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        joules=None if resumed or joules is None or after is None else after - joules,
    )
    write_json(kept, asdict(cost))
    return cost


def joules_used() -> float | None:
    """Energy counter of the processor packages (Linux RAPL), where this user may read it."""
    try:
        return sum(int((zone / "energy_uj").read_text()) for zone in RAPL.glob("intel-rapl:?")) / 1e6 or None
    except OSError:
        return None
