"""The queue: runs what the plan still lacks, in order of value, beside whatever else the machine does.

Each cell is a process of one thread at the lowest priority. Nothing is lost when it, or the queue, is killed: a cell
goes on from its last checkpoint, and its result is written whole or not at all. `kill -STOP -- -GROUP`, with the group
of processes that `status` names, pauses the queue and its cells, `kill -CONT -- -GROUP` lets them go on.
"""

from __future__ import annotations

import fcntl
import itertools
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from replications.cells import BUSY, Cell, stored
from replications.claims import CLAIMS
from replications.claims.pilots import PILOTS
from replications.plan import Claim
from replications.worlds import WORLDS


def find_cell(name: str) -> Cell:
    """The cell of the plan that is called WORLD/ARM-SEED.

    Raises:
        SystemExit: if there is none.
    """
    for claim in (*PILOTS, *CLAIMS):
        for cell in cells_of(claim):
            if str(cell) == name:
                return cell
    sys.exit(f"the plan has no cell {name}")


def cells_of(claim: Claim) -> Iterator[Cell]:
    """All cells of a claim: seed after seed, so that what there is can be compared."""
    for seed in claim.seeds:
        for arm in claim.arms:
            yield Cell(WORLDS[claim.world], arm, seed)


def pending(claims: Sequence[Claim]) -> list[Cell]:
    """Cells without a result of today's protocol, in order of value, each once."""
    every = dict.fromkeys(str(cell) for claim in claims for cell in cells_of(claim))
    by_name = {str(cell): cell for claim in claims for cell in cells_of(claim)}
    return [by_name[name] for name in every if stored(by_name[name]) is None]


def minutes(claim: Claim, cell: Cell) -> float:
    """Processor minutes that a cell is expected to take: as its arm took before, else as planned."""
    found = [stored(other) for other in cells_of(claim) if other.arm.name == cell.arm.name]
    spent = [result["cpu_seconds"] for result in found if result and result["cpu_seconds"]]
    return statistics.median(spent) / 60 if spent else claim.minutes * cell.takes_time


def work(claims: Sequence[Claim], data: Path, runs: Path, *, processes: int, hours: float | None) -> int:
    """Run pending cells until there are none, or the hours are over; then ask those under way to save and stop.

    Returns:
        An exit code: 1 if a cell failed.
    """
    runs.mkdir(parents=True, exist_ok=True)
    with open(runs / "queue.pid", "a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(f"a queue is at work on {runs} already")
            return 2
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        for name in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(name, _interrupt)
        ends = time.monotonic() + 3600 * hours if hours else None
        tried: set[str] = set()
        failed: list[str] = []
        running: dict[str, subprocess.Popen[bytes]] = {}
        try:
            while ends is None or time.monotonic() < ends:
                if len(running) < processes:
                    left = (cell for cell in pending(claims) if str(cell) not in tried)
                    for cell in itertools.islice(left, processes - len(running)):
                        tried.add(str(cell))
                        running[str(cell)] = start(cell, data, runs)
                if not running:
                    break
                for name in [name for name, process in running.items() if process.poll() is not None]:
                    code = running.pop(name).returncode
                    print(
                        f"{time.strftime('%H:%M')} {name}: {'done' if code == 0 else f'ended with {code}'}", flush=True
                    )
                    failed += [name] if code not in (0, BUSY) else []
                time.sleep(1)
        except KeyboardInterrupt:
            print("stopping: the cells under way save and will be gone on with")
        finally:
            for process in running.values():
                process.terminate()
            for process in running.values():
                process.wait()
    for name in failed:
        print(f"{name} failed: see {runs / name / 'log.txt'}")
    return int(bool(failed))


def start(cell: Cell, data: Path, runs: Path) -> subprocess.Popen[bytes]:
    """A process for a cell."""
    log = runs / str(cell) / "log.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "replications", "cell", str(cell), "--data", str(data), "--runs", str(runs)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    with open(log, "a") as out:
        return subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | one)


def _interrupt(signum: int, frame: object) -> None:
    raise KeyboardInterrupt


def status(claims: Sequence[Claim], runs: Path) -> str:
    """One screen of 80 columns: what is done, stale and to come, claim by claim, and how long it will take.

    Claims of which nothing is left are counted in one line, and so are the last ones where there are more than `ROWS`.
    """
    row = lambda title, *numbers: f"{title:<28}{numbers[0]:>8}{numbers[1]:>8}{numbers[2]:>8}{numbers[3]:>24.1f}"
    rows: dict[str, tuple[int, int, int, float]] = {}
    seen: set[str] = set()
    total = 0.0
    for name, group in itertools.groupby(
        claims, lambda claim: "learns" if claim.name.startswith("learns-") else claim.name
    ):
        cells = done = stale = 0
        hours = 0.0
        for claim in (members := list(group)):
            for cell in cells_of(claim):
                cells += 1
                finished = stored(cell) is not None
                done += finished
                stale += not finished and cell.result_path.exists()
                if not finished and str(cell) not in seen:
                    hours += minutes(claim, cell) / 60
                    seen.add(str(cell))
        total += hours
        title = name if len(members) == 1 else f"{name} ({len(members)})"
        rows[title] = cells, done, stale, hours
    over = {title: numbers for title, numbers in rows.items() if numbers[0] == numbers[1]}
    left = [(title, numbers) for title, numbers in rows.items() if title not in over]
    lines = [f"{'claim':<28}{'cells':>8}{'done':>8}{'stale':>8}{'processor hours left':>24}"]
    lines += [row(title, *numbers) for title, numbers in left[:ROWS]]
    for words, others in (("more claims", dict(left[ROWS:])), ("claims that are done", over)):
        if others:
            lines.append(row(f"{len(others)} {words}", *map(sum, zip(*others.values(), strict=True))))
    lines.append(f"{'all, each cell once':<52}{total:>24.1f}")
    return "\n".join([*lines, at_work(runs)])


ROWS = 18


def at_work(runs: Path) -> str:
    """Whether a queue runs here, and on what."""
    path = runs / "queue.pid"
    if not path.exists():
        return "no queue is at work here"
    with open(path) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return f"a queue is at work: PID {(pid := path.read_text())}, process group {os.getpgid(int(pid))}"
    return "no queue is at work here"
