"""Other processes, forked from a server that has imported everything: a new interpreter takes five seconds for that."""

from __future__ import annotations

import atexit
import ctypes
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

SERVER = multiprocessing.get_context("forkserver")
EVERYTHING = ["glocal.pipeline.start", "glocal.evaluation.evaluate", "glocal.report", "timm", "torch._dynamo"]
EVERYTHING += ["torch.utils.tensorboard", "cyclopts.config", "rich.progress", "simplejpeg", "PIL.PngImagePlugin"]
SERVER.set_forkserver_preload(EVERYTHING)


class Command:
    """`glocal ARGUMENTS`, under way: what `subprocess.Popen` would give.

    Args:
        arguments: of the command line.
        cwd: current folder; a list has one for each of several hosts, which share the ranks evenly.
        env: variables in addition to this process's; a list, too.
        ranks: processes that train together, as torchrun would start them; what is told of is the first.
    """

    def __init__(
        self,
        *arguments: str | Path,
        cwd: Path | list[Path] | None = None,
        env: Mapping[str, str] | list[Mapping[str, str]] | None = None,
        ranks: int = 1,
    ) -> None:
        self.args, self.folder = ["glocal", *map(str, arguments)], Path(tempfile.mkdtemp())
        folders = cwd if isinstance(cwd, list) else [cwd or Path.cwd()]
        more = env if isinstance(env, list) else [env or {}] * len(folders)
        self.processes = []
        port = str(_free_port()) if ranks > 1 else ""
        of_host = ranks // len(folders)
        for rank in range(ranks):
            host = rank // of_host
            told = {"RANK": rank, "LOCAL_RANK": rank % of_host, "WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": of_host}
            told |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "GROUP_RANK": host}
            files = [str(self.folder / f"{name}{rank or ''}") for name in ("out", "err")]
            told = {name: str(value) for name, value in told.items()} if ranks > 1 else {}
            arguments_ = (self.args, str(folders[host]), os.environ | more[host] | told, files)
            self.processes.append(SERVER.Process(target=_command, args=arguments_))
            self.processes[-1].start()
        self.pid: int = self.processes[0].pid  # type: ignore[assignment]

    @property
    def returncode(self) -> int | None:
        return self.processes[0].exitcode

    poll = lambda self: self.returncode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def communicate(self, timeout: float = 280) -> tuple[str, str]:
        """Wait for the end; standard output and error of the first process (of others: `self.folder` / "err1")."""
        for process in self.processes:
            process.join(timeout)
            if process.exitcode is None:
                process.kill()
                raise subprocess.TimeoutExpired(self.args, timeout)
        return (self.folder / "out").read_text(), (self.folder / "err").read_text()


def run(*arguments: str | Path, check: bool = True, **settings: Any) -> subprocess.CompletedProcess[str]:
    """`glocal ARGUMENTS`, to its end, which `check` wants to be a success."""
    command = Command(*arguments, **settings)
    out, err = command.communicate()
    assert not (check and command.returncode), err
    return subprocess.CompletedProcess(command.args, command.returncode or 0, out, err)


def _command(args: list[str], cwd: str, env: dict[str, str], files: list[str]) -> None:
    os.setsid()
    if sys.platform == "linux":  # no run without an end outlives the tests
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    for number, file in enumerate(files, start=1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.path[:0] = ["", *filter(None, env.get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = [str(Path(sys.executable).with_name("glocal")), *args[1:]]
    try:
        runpy.run_module("glocal", run_name="__main__")
    finally:
        atexit._run_exitfuncs()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _run(rank: int, world: int, folder: str, function: Callable[..., Any], arguments: tuple) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(function(*arguments), Path(folder) / f"{rank}.pt")
    dist.barrier()
    os._exit(0)  # all is said: gloo's threads may abort a process whose interpreter is being taken down


def on_processes(world: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `function(*arguments)`, a function at the top of its module, returns on each of `world` gloo processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.start_processes(
            _run, (world, folder, function, arguments), nprocs=world, start_method="forkserver"
        )
        return [torch.load(Path(folder) / f"{rank}.pt", weights_only=False) for rank in range(world)]
