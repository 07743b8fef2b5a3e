"""Does this tree train what another commit trained, to the bit? `python -m benchmarks.golden --base COMMIT`

Six methods train for 20 steps in both trees, now and on this machine: sums round differently on another, so digests are
compared and never kept. Runs that the base began, killed at step 10, are also resumed by this tree.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

HEAD, STOP = Path(__file__).parents[1], 10
COMMON: dict[str, Any] = (
    {"data": "parts:n=64,size=32", "backbone": "test_resnet", "image_size": 32, "batch_size": 8, "precision": "32"}
    | {"epochs": 5, "max_steps": 20, "checkpoint_steps": STOP, "monitor_every": 100, "threads": 1}
    | {"accelerator": "cpu", "cache": False, "compile": False, "report": False, "quiet": True}
)
METHODS: dict[str, dict[str, Any]] = {
    "vicregl": {},  # LARS, matches of cells
    "byol": {"accumulate": 2, "drop_path": 0.1},  # a teacher
    "dino": {"backbone": "test_vit", "small_crops": 2, "small_size": 32, "outputs": 256},  # AdamW
    "deepcluster": {"optimizer": "sgd", "lr": 0.01},  # plans its epochs
    "swav": {"small_crops": 2, "small_size": 16, "queue": 32, "queue_from": 0.25},
    "paws": {"labelled": 0.5, "support_classes": 4, "support_images": 3},  # support sets
}
SETTINGS = {f"{p} proc, {w} workers": {"devices": p, "workers": w} for p, w in itertools.product((1, 2), (0, 2))}
UNBROKEN, KILLED = next(iter(SETTINGS)), f"killed at {STOP}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.golden", description=__doc__.splitlines()[0])
    parser.add_argument("--base", default="HEAD", help="a commit, or a folder that holds one; by default HEAD")
    parser.add_argument("--quick", action="store_true", help="two methods, two settings")
    arguments = parser.parse_args()
    methods, settings = (list(names)[:: 3 if arguments.quick else 1] for names in (METHODS, SETTINGS))
    with tempfile.TemporaryDirectory() as folder, tree(arguments.base) as base:

        def run(*words: str) -> str:
            return str(Path(folder, " ".join(words)))

        def begun(who: str, method: str, setting: str) -> dict[str, Any]:
            options = COMMON | METHODS[method] | SETTINGS.get(setting, SETTINGS[UNBROKEN] | {"kill": True})
            return options | {"method": method, "out": run(who, method, setting)}

        each = list(itertools.product(methods, settings))
        train(base, [begun("old", *job) for job in each] + [begun("old", m, KILLED) for m in methods])
        resumed = [{"resume": run("old", m, KILLED), "quiet": True} for m in methods]
        train(HEAD, [begun("new", *job) for job in each] + resumed)
        rows = [("", *settings, f"{KILLED}, resumed")]
        for m in methods:
            pairs = [(run("old", m, s), run("new", m, s)) for s in settings]
            pairs.append((run("old", m, UNBROKEN), run("old", m, KILLED)))
            rows.append((m, *("equal" if digest(a) == digest(b) else "DIFFERENT" for a, b in pairs)))
    print("\n".join("".join(f"{word:<19}" for word in row) for row in rows))
    return int(any("DIFFERENT" in row for row in rows))


@contextmanager
def tree(base: str) -> Iterator[Path]:
    """The folder that `base` names, or a worktree of that commit for as long as it is needed."""
    if Path(base, "src", "glocal").is_dir():
        yield Path(base).resolve()
        return
    git = ["git", "-C", str(HEAD), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([*git, "add", "--quiet", "--detach", f"{folder}/tree", base], check=True)
        try:
            yield Path(folder, "tree")
        finally:
            subprocess.run([*git, "remove", "--force", f"{folder}/tree"], check=True)


def train(root: Path, jobs: list[dict[str, Any]]) -> None:
    """Do all jobs, options of `glocal.pretrain`, with the code of one tree and its own entry points."""
    with tempfile.TemporaryDirectory() as made:
        setup = [sys.executable, "-c", "from setuptools import setup; setup()", "-q", "egg_info", "--egg-base", made]
        subprocess.run(setup, cwd=root, check=True, capture_output=True)
        env = os.environ | {"PYTHONPATH": f"{made}{os.pathsep}{root / 'src'}", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-P", __file__, "--jobs"]
        subprocess.run(command, env=env, input=json.dumps(jobs), text=True, check=True)


def do_jobs() -> None:
    """Import once, then fork for each process of each job; a job that fails leaves no run."""
    import glocal.pipeline

    for options in json.load(sys.stdin):
        kill, children = options.pop("kill", False), []
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        for rank in range(options.get("devices", 1)):
            if (child := os.fork()) == 0:
                if options.get("devices", 1) > 1:
                    os.environ |= {"LOCAL_RANK": str(rank), "MASTER_PORT": str(port)}
                try:
                    if kill:
                        kill_after_checkpoint()
                    glocal.pretrain(**options)
                except BaseException:
                    traceback.print_exc()
                    os._exit(1)
                os._exit(0)
            children.append(child)
        codes = {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children}
        if codes != {-signal.SIGKILL if kill else 0}:
            shutil.rmtree(options.get("resume") or options["out"], ignore_errors=True)


def kill_after_checkpoint() -> None:
    """Let this process die of SIGKILL as soon as the checkpoint of step 10 lies in its place."""
    replace = os.replace

    def replace_and_die(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == "last.pt" and torch.load(target)["position"]["step"] == STOP:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace_and_die


def digest(run: str) -> list[str]:
    """Of the last weights and buffers, by name, and the losses as metrics.jsonl words them; failed runs are unequal."""
    if not os.path.exists(run):
        return [run]
    found = hashlib.sha256()
    for name, value in sorted(torch.load(Path(run, "checkpoints", "last.pt"))["method"].items()):
        found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
        found.update(value.contiguous().reshape(-1).view(torch.uint8).numpy())
    return [found.hexdigest(), *re.findall(r'"loss": ([^,}]+)', Path(run, "metrics.jsonl").read_text())]


if __name__ == "__main__":
    sys.exit(do_jobs() if sys.argv[1:] == ["--jobs"] else main())
