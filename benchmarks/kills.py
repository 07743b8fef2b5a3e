"""Runs that are killed at random moments and gone on with: what is lost, and whether the end is the same to the bit.

Each run is a process of its own, in a session of its own, that does what the command does. The main process is killed
(SIGKILL), or the whole group is asked to end (SIGTERM), as a batch system does; then the run is resumed, perhaps to be
killed again, and its last checkpoint compared with that of a run that nobody disturbed.
"""

from __future__ import annotations

import atexit
import importlib
import os
import random
import re
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import Size
from glocal import cli
from glocal.data import open_source
from glocal.run import Run

CHECKPOINT_STEPS = 4
COMMON: dict[str, Any] = (
    {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "epochs": 2, "precision": "32", "threads": 1}
    | {"checkpoint_steps": CHECKPOINT_STEPS, "monitor_every": 100, "workers": 0, "accelerator": "cpu"}
    | {"cache": False, "compile": False, "report": False}
)
SMALL_CROPS = {"small_crops": 2, "small_size": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "vicreg": {"method": "vicreg"},
    "vicregl, 2 workers": {"method": "vicregl", "workers": 2},
    "vicreg, cache": {"method": "vicreg", "cache": True},
    "simclr, cache, 2 workers": {"method": "simclr", "cache": True, "workers": 2},
    "byol (teacher), accumulate 2": {"method": "byol", "accumulate": 2},
    "mocov3 (teacher), bf16, 2 workers": {"method": "mocov3", "precision": "bf16-mixed", "workers": 2},
    "dino (teacher), ViT": {"method": "dino", "backbone": "test_vit", "outputs": 256, **SMALL_CROPS},
    "swav, queue, bf16": {"method": "swav", "queue": 32, "precision": "bf16-mixed", **SMALL_CROPS},
    "deepcluster (plans its epochs)": {"method": "deepcluster"},
    "deepcluster_v2 (plans its epochs), 2 workers": {"method": "deepcluster_v2", "workers": 2},
    "vicregl, 2 processes, 2 workers": {"method": "vicregl", "devices": 2, "batch_size": 4, "workers": 2},
}
ORPHANS_AFTER, PATIENCE = 10.0, 600.0
BEFOREHAND = "glocal.pipeline", "timm", "cyclopts", "torch.utils.tensorboard"  # imported once, not in each process
WITH_WORKERS = [name for name, options in SETTINGS.items() if options.get("workers")]


def measure(size: Size, keep: Callable[[dict[str, Any]], None] = lambda measured: None) -> dict[str, Any]:
    """Kill runs of all settings; what became of each stroke, and of each run in the end."""
    strokes, ends = list[dict[str, Any]](), list[dict[str, Any]]()
    kills, terms = (100, 20) if size == "full" else (1, 1)
    settings = [*SETTINGS] if size == "full" else WITH_WORKERS[:1]
    plan = [(settings[k % len(settings)], "SIGKILL") for k in range(kills)]
    some = [name for name in WITH_WORKERS if name in settings]
    plan += [(some[k % len(some)], "SIGTERM") for k in range(terms)]
    draw = random.Random(0)
    draw.shuffle(plan)
    measured = {"settings": len(settings), "checkpoint_steps": CHECKPOINT_STEPS, "strokes": strokes, "runs": ends}
    for name in BEFOREHAND:
        importlib.import_module(name)
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())  # a TemporaryDirectory would be removed by the first child that ends
    try:
        photos(folder / "photos")
        os.environ["GLOCAL_CACHE"] = str(folder / "cache")
        whole = {name: unbroken(folder, name) for name in settings}
        while plan:
            setting = plan[0][0]
            mine = [stroke for stroke in plan if stroke[0] == setting][: draw.randint(1, 5)]
            done = broken(folder, setting, [kind for _, kind in mine], *whole[setting], draw)
            for stroke in done["strokes"]:  # a run that ended before its moment came stays in the plan
                plan.remove((setting, stroke["signal"]))
            strokes += done.pop("strokes")
            ends.append(done)
            keep(measured)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return measured


def photos(folder: Path) -> None:
    """64 generated images as files: only files are cached."""
    from PIL import Image

    folder.mkdir()
    source = open_source("parts:n=64,size=40")
    for i in range(len(source)):
        Image.fromarray(source.open(i).decode()).save(folder / f"{i:02d}.png")


def launched(folder: Path, setting: str, out: Path) -> int:
    """The process of a run, which is resumed where it was begun."""
    processes = SETTINGS[setting].get("devices", 1)
    if Run(out).config_file.exists():
        return begin(["pretrain", "--resume", str(out)], folder / "log", processes)
    options = COMMON | SETTINGS[setting] | {"out": out}
    words = [f"--{name.replace('_', '-')}={str(value).lower()}" for name, value in options.items() if name != "out"]
    return begin(["pretrain", str(folder / "photos"), *words, f"--out={out}"], folder / "log", processes)


def begin(words: list[str], log: Path, processes: int = 1) -> int:
    """Start a process that does what `glocal WORDS` does, and tells the steps it has taken; its number."""
    steps = log.with_suffix(".steps")
    steps.write_text("0")
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        with open(log, "w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if processes > 1:
            with socket.create_server(("127.0.0.1", 0)) as free:
                os.environ["MASTER_PORT"] = str(free.getsockname()[1])
            os.environ["LOCAL_RANK"] = "0" if os.fork() else "1"
        if os.environ.get("LOCAL_RANK") != "1":
            tell_steps(steps)
        cli.main(words)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


def tell_steps(file: Path) -> None:
    """Have training write down each step that it has taken."""
    from glocal.training import loop

    step = loop._Training.step

    def told(self: Any, batches: Any) -> Any:
        loss = step(self, batches)
        file.write_text(str(self.at.step))
        return loss

    loop._Training.step = told


def end_of(pid: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """The exit code of a process, negative for a signal's; None where it lives so long, or until something is so."""
    last = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= last or until():
            return None
        time.sleep(0.002)


def unbroken(folder: Path, setting: str) -> tuple[Path, float]:
    """A run that nobody disturbs, and its seconds."""
    out, started = folder / "unbroken" / setting, time.monotonic()
    out.parent.mkdir(exist_ok=True)
    log = folder / "log"
    code = end_of(launched(folder, setting, out), PATIENCE)
    if code != 0:
        raise SystemExit(f"{setting}: exit code {code}\n{log.read_text()}")
    return out, time.monotonic() - started


def broken(
    folder: Path, setting: str, kinds: list[str], whole: Path, seconds: float, draw: random.Random
) -> dict[str, Any]:
    """One run, struck as often as `kinds` has signals, resumed after each, and compared in the end."""
    out, log, strokes, code, refusals = folder / "broken", folder / "log", list[dict[str, Any]](), None, 0
    for stale in (out, folder / "cache"):
        shutil.rmtree(stale, ignore_errors=True)
    for kind in kinds:
        step, part = draw.randint(checkpoint_step(out) or 0, last_step(whole)), draw.random()
        pid = launched(folder, setting, out)
        code = end_of(pid, PATIENCE, until=lambda step=step: taken(log.with_suffix(".steps")) >= step)
        if code is None:  # then some time within that step, or, before any, until the first
            code = end_of(pid, part * seconds / (last_step(whole) if step else 4))
        if code is not None:  # it ended before its moment came
            break
        strokes.append({"setting": setting, **strike(pid, kind, out, log)})
    while code != 0 and refusals < 2:
        refusals += code is not None
        pid = launched(folder, setting, out)
        code = end_of(pid, PATIENCE)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            code = end_of(pid, PATIENCE)
    bits = different_bits(state(whole), state(out)) if code == 0 else None
    end = {"setting": setting, "strokes": strokes, "refusals": refusals, "exit_code": code, "different_bits": bits}
    return end if not refusals else end | {"said": log.read_text()[-2000:]}


def strike(pid: int, kind: str, out: Path, log: Path) -> dict[str, Any]:
    """Kill a process or ask its group to end; what was lost, what is left, and how it ended."""
    steps = log.with_suffix(".steps")
    before = taken(steps)
    os.kill(pid, signal.SIGKILL) if kind == "SIGKILL" else os.killpg(pid, signal.SIGTERM)
    struck = time.monotonic()
    code = end_of(pid, PATIENCE)
    ended = time.monotonic() - struck
    while (left := alive(pid)) and time.monotonic() - struck - ended < ORPHANS_AFTER:
        time.sleep(0.05)
    if left:
        os.killpg(pid, signal.SIGKILL)
    if code is None:  # it hung
        os.waitpid(pid, 0)
    kept, after = checkpoint_step(out), taken(steps)
    return {
        "signal": kind,
        "seconds_to_end": round(ended, 2),
        "exit_code": code,
        "step": before,
        "steps_after_signal": after - before,
        "steps_lost": max(0, after - (kept or 0)),
        "orphans": len(left),
        "said": re.sub(r"\s+", " ", log.read_text()[-300:]) if "Traceback" in log.read_text() else "",
    }


def taken(steps: Path) -> int:
    """Steps that a process has told of; the file is empty while it is written."""
    for _ in range(100):
        if text := steps.read_text():
            return int(text)
        time.sleep(0.001)
    return 0


def alive(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def state(out: Path) -> dict[str, Any]:
    """All that a run's last checkpoint holds but the time that it took, and the losses that it logged."""
    held = torch.load(Run(out).checkpoint_file, weights_only=True)
    del held["position"]["seconds"]
    return held | {"losses": [line["loss"] for line in Run(out).metrics() if "loss" in line]}


def checkpoint_step(out: Path) -> int | None:
    """Where a run would go on; None without a checkpoint that can be read."""
    for file in filter(Path.is_file, Run(out).checkpoints):
        try:
            return torch.load(file, weights_only=True)["position"]["step"]
        except Exception:
            continue
    return None


def last_step(out: Path) -> int:
    step = checkpoint_step(out)
    assert step
    return step


def different_bits(a: Any, b: Any) -> int:
    """In how many bits two nested states differ; where there is no counterpart, all of it, at least 1."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return sum(different_bits(a.get(key), b.get(key)) for key in {*a, *b})
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return sum(map(different_bits, a, b))
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        if a.dtype != b.dtype or a.shape != b.shape:
            return 8 * max(1, a.nbytes, b.nbytes)
        first, second = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return sum(int(byte).bit_count() for byte in (first ^ second)[first != second])
    return int(type(a) is not type(b) or repr(a) != repr(b))
