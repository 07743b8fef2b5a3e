"""Runs that are killed at random moments and resumed: what is lost, what is left, and whether the end is the same.

Each run is a process in a session of its own that does what the command does. Its main process is killed (SIGKILL), or
its whole group is asked to end (SIGTERM), as batch systems do; then it is resumed, perhaps to be struck again.
"""

from __future__ import annotations

import atexit
import importlib
import os
import random
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image

from benchmarks.fuzz import BEFOREHAND
from benchmarks.measure import Size
from glocal import cli
from glocal.data import open_source
from glocal.run import Run

STEPS, CHECKPOINT_STEPS = 16, 4
COMMON: dict[str, Any] = (
    {"backbone": "test_resnet", "image_size": 32, "batch_size": 8, "epochs": 2, "max_steps": STEPS, "precision": "32"}
    | {"checkpoint_steps": CHECKPOINT_STEPS, "monitor_every": 100, "workers": 0, "cache": False, "compile": False}
    | {"threads": 1, "accelerator": "cpu", "report": False}
)
SMALL = {"small_crops": 2, "small_size": 32}
SETTINGS: dict[str, dict[str, Any]] = {
    "vicreg": {"method": "vicreg"},
    "vicregl, 2 workers": {"method": "vicregl", "workers": 2},
    "vicreg, cache": {"method": "vicreg", "cache": True},
    "simclr, cache, 2 workers": {"method": "simclr", "cache": True, "workers": 2},
    "byol (teacher), accumulate 2": {"method": "byol", "accumulate": 2},
    "mocov3 (teacher), bf16, 2 workers": {"method": "mocov3", "precision": "bf16-mixed", "workers": 2},
    "dino (teacher), ViT": {"method": "dino", "backbone": "test_vit", "outputs": 256, **SMALL},
    "swav (queue), bf16": {"method": "swav", "queue": 32, "precision": "bf16-mixed", **SMALL},
    "deepcluster (plans its epochs)": {"method": "deepcluster"},
    "deepcluster_v2 (plans its epochs), 2 workers": {"method": "deepcluster_v2", "workers": 2},
    "vicregl, 2 processes, 2 workers": {"method": "vicregl", "devices": 2, "batch_size": 4, "workers": 2},
}
WITH_WORKERS = [name for name, options in SETTINGS.items() if options.get("workers")]
ORPHANS_AFTER, PATIENCE = 10.0, 600.0


def measure(size: Size, keep: Callable[[dict[str, Any]], None] = lambda measured: None) -> dict[str, Any]:
    """Strike runs of all settings; what became of each stroke, and of each run in the end."""
    settings, kills, terms = ([*SETTINGS], 100, 20) if size == "full" else (WITH_WORKERS[:1], 1, 1)
    plan = [(settings[k % len(settings)], "SIGKILL") for k in range(kills)]
    some = [name for name in WITH_WORKERS if name in settings]
    plan += [(some[k % len(some)], "SIGTERM") for k in range(terms)]
    draw = random.Random(0)
    draw.shuffle(plan)
    strokes, ends = list[dict[str, Any]](), list[dict[str, Any]]()
    about = {"settings": settings, "checkpoint_steps": CHECKPOINT_STEPS, "orphans_after": ORPHANS_AFTER}
    measured = about | {"strokes": strokes, "runs": ends}
    for name in BEFOREHAND:
        importlib.import_module(name)
    threads, root = torch.get_num_threads(), Path(tempfile.mkdtemp())
    torch.set_num_threads(1)
    try:
        (root / "photos").mkdir()
        source = open_source("parts:n=64,size=40")
        for i in range(len(source)):
            Image.fromarray(source.open(i).decode()).save(root / "photos" / f"{i:02d}.png")
        with mock.patch.dict(os.environ, GLOCAL_CACHE=str(root / "cache")):
            whole = {setting: unbroken(root, setting) for setting in settings}
            while plan:
                setting = plan[0][0]
                kinds = [kind for name, kind in plan if name == setting][: draw.randint(1, 5)]
                struck, end = broken(root, setting, kinds, *whole[setting], draw)
                for stroke in struck:  # a run that ended before its moment came stays in the plan
                    plan.remove((setting, stroke["signal"]))
                strokes += struck
                ends.append(end)
                keep(measured)
    finally:
        torch.set_num_threads(threads)
        shutil.rmtree(root, ignore_errors=True)
    return measured


def unbroken(root: Path, setting: str) -> tuple[dict[str, Any], float]:
    """What a run that nobody disturbs ends in, and its seconds."""
    started = time.monotonic()
    if end_of(launched(root, setting, root / setting), PATIENCE) != 0:
        raise SystemExit(f"{setting}: {(root / 'log').read_text()}")
    return state(root / setting), time.monotonic() - started


def broken(
    root: Path, setting: str, kinds: list[str], whole: dict[str, Any], seconds: float, draw: random.Random
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """One run, struck by each of some signals, resumed after each, and compared in the end."""
    out, strokes, code, refusals = root / "broken", list[dict[str, Any]](), None, 0
    for stale in (out, root / "cache"):
        shutil.rmtree(stale, ignore_errors=True)
    for kind in kinds:
        step, part = draw.randint(kept_step(out), STEPS), draw.random()
        pid = launched(root, setting, out)
        code = end_of(pid, PATIENCE, until=lambda step=step: taken(root) >= step)
        if code is None:  # then some time within that step, or, before any, until the first
            code = end_of(pid, part * seconds / (STEPS if step else 4))
        if code is not None:  # it ended before its moment came
            break
        strokes.append({"setting": setting, **strike(pid, kind, out, root)})
    while code != 0 and refusals < 2:
        refusals += code is not None
        code = end_of(pid := launched(root, setting, out), PATIENCE)
        if code is None:
            os.killpg(pid, signal.SIGKILL)
            code = end_of(pid, PATIENCE)
    bits = different_bits(whole, state(out)) if code == 0 else None
    end = {"setting": setting, "strokes": len(strokes), "refusals": refusals, "different_bits": bits}
    return strokes, end | ({"said": (root / "log").read_text()[-2000:]} if refusals else {})


def strike(pid: int, kind: str, out: Path, root: Path) -> dict[str, Any]:
    """Kill a process, or ask its group to end; how it ended, what was lost, what is left."""
    before, struck = taken(root), time.monotonic()
    os.kill(pid, signal.SIGKILL) if kind == "SIGKILL" else os.killpg(pid, signal.SIGTERM)
    code = end_of(pid, PATIENCE)
    ended = time.monotonic()
    while (left := alive(pid)) and time.monotonic() - ended < ORPHANS_AFTER:
        time.sleep(0.05)
    if left:
        os.killpg(pid, signal.SIGKILL)
    after = taken(root)
    return (
        {"signal": kind, "step": before, "seconds_to_end": round(ended - struck, 2), "exit_code": code}
        | {"steps_after_signal": after - before, "steps_lost": max(0, after - kept_step(out)), "orphans": len(left)}
        | {"traceback": kind == "SIGTERM" and "Traceback" in (root / "log").read_text()}
    )


def launched(root: Path, setting: str, out: Path) -> int:
    """The process of a run, which is resumed where it was begun."""
    options = COMMON | SETTINGS[setting] | {"out": out}
    words = ["pretrain", str(root / "photos"), *(f"--{k.replace('_', '-')}={v}" for k, v in options.items())]
    words = [word.replace("=True", "=true").replace("=False", "=false") for word in words]
    words = ["pretrain", "--resume", str(out)] if Run(out).config_file.exists() else words
    (root / "steps").write_text("00000000")
    if pid := os.fork():
        return pid
    code = 1
    try:
        os.setsid()
        with open(root / "log", "w") as log:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
        if options.get("devices", 1) > 1:
            with socket.create_server(("127.0.0.1", 0)) as free:
                os.environ["MASTER_PORT"] = str(free.getsockname()[1])
            os.environ["LOCAL_RANK"] = "0" if os.fork() else "1"
        if os.environ.get("LOCAL_RANK") != "1":
            tell_steps(os.open(root / "steps", os.O_WRONLY))
        cli.main(words)
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        atexit._run_exitfuncs()
        os._exit(code)


def tell_steps(file: int) -> None:
    """Have training write down each step that it has taken."""
    from glocal.training.loop import _Training

    step = _Training.step

    def told(self: Any, batches: Any) -> Any:
        loss = step(self, batches)
        os.pwrite(file, b"%08d" % self.at.step, 0)
        return loss

    _Training.step = told  # type: ignore[method-assign]


def taken(root: Path) -> int:
    """Steps that training has told of."""
    return int((root / "steps").read_text())


def end_of(pid: int, seconds: float, until: Callable[[], bool] = lambda: False) -> int | None:
    """The exit code of a process, negative for a signal's; None where it lives so long, or until something is so."""
    left = seconds  # counted, not read off a clock: the machine may pause
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if left <= 0 or until():
            return None
        time.sleep(0.002)
        left -= 0.002


def alive(session: int) -> list[int]:
    """The living processes of a session."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] not in "ZX":
            found.append(int(stat.parent.name))
    return found


def kept_step(out: Path) -> int:
    """Where a run would go on."""
    for file in filter(Path.is_file, Run(out).checkpoints):
        return torch.load(file, weights_only=True)["position"]["step"]
    return 0


def state(out: Path) -> dict[str, Any]:
    """All that a run's last checkpoint holds but the time that it took, and the losses that it logged."""
    held = torch.load(Run(out).checkpoint_file, weights_only=True)
    del held["position"]["seconds"]
    return held | {"losses": [line["loss"] for line in Run(out).metrics() if "loss" in line]}


def different_bits(a: Any, b: Any) -> int:
    """In how many bits two nested states differ; anything but two tensors alike counts as one."""
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return sum(different_bits(a.get(key), b.get(key)) for key in {*a, *b})
    if isinstance(a, list | tuple) and isinstance(b, list | tuple) and len(a) == len(b):
        return sum(map(different_bits, a, b))
    tensors = isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    if tensors and (a.dtype, a.shape) == (b.dtype, b.shape):
        first, second = (x.contiguous().reshape(-1).view(torch.uint8) for x in (a, b))
        return sum(byte.bit_count() for byte in (first ^ second)[first != second].tolist())
    return int(type(a) is not type(b) or repr(a) != repr(b) or tensors)
