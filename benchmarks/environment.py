"""The peers, at fixed versions, in an environment of their own; and what a measurement must say about its machine."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PEERS = {"lightly": "1.6.0", "scikit-learn": "1.9.1"}
LIBRARIES = ("glocal", "torch", "torchvision", "timm", "pillow", "simplejpeg")
ENVIRONMENT = Path(__file__).parents[1] / ".venv-bench"


def missing_peers() -> list[str]:
    """Requirements, as pip takes them, that the running Python does not have at the version compared with."""
    missing = []
    for name, wanted in PEERS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            found = None
        if found != wanted:
            missing.append(f"{name}=={wanted}")
    return missing


def enter() -> None:
    """Go on in an environment that has the peers: this one, or `.venv-bench`, which is made if need be.

    It lies on top of the running one, whose packages it sees, so that PyTorch is not installed twice.
    """
    if not (missing := missing_peers()):
        return
    if Path(sys.prefix) == ENVIRONMENT:
        raise SystemExit(f"{ENVIRONMENT} lacks {', '.join(missing)}; remove it and start again")
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        print(f"installing {', '.join(missing)} into {ENVIRONMENT}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    below = next((ENVIRONMENT / "lib").glob("python*")) / "site-packages" / "below.pth"
    here = sysconfig.get_path("purelib")
    below.write_text(f"import site; site.addsitedir({here!r})\n")  # editable installs are .pth files too
    subprocess.run([str(python), "-m", "pip", "install", "--quiet", *missing], check=True)
    os.execv(python, [str(python), "-m", "benchmarks", *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """Hardware, versions, threads and what else the machine was doing."""
    import torch

    from glocal.pipeline.prepare import processor

    cuda = torch.cuda.is_available()
    return {
        "cpu": processor(),
        "instructions": _instructions(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpu": torch.cuda.get_device_name() if cuda else None,
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in (*LIBRARIES, *PEERS)},
    }


def machine_name(about: dict[str, Any]) -> str:
    """Of a machine's folder of results: maker, family and model of its processor, or the GPU's name."""
    words = about["gpu"] or " ".join(
        [about["cpu"].split("(")[0].split()[0], *re.findall(r"family \d+|model \d+", about["cpu"])]
    )
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"family|model", " ", words.lower())).strip("-")


def _instructions() -> str:
    """What of the processor decides how fast it multiplies matrices."""
    try:
        flags = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
    except OSError:
        return platform.machine()
    known = {"amx_bf16": "AMX", "avx512_bf16": "AVX-512 bf16", "avx512f": "AVX-512", "avx2": "AVX2"}
    return ", ".join(word for flag, word in known.items() if flag in flags) or platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
