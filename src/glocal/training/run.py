"""A run as a directory: where it is, what it holds, its configuration."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from glocal.errors import UsageError


def new_run(out: str | None, stem: str) -> Path:
    """The directory for a new run: `out`, or the first free runs/STEM-K. Nothing is written yet.

    Raises:
        UsageError: if `out` already holds a run, or is a file.
    """
    if out is None:
        k = 1
        while (path := Path("runs") / f"{stem}-{k}").exists():
            k += 1
        return path
    path = Path(out)
    if path.is_file():
        raise UsageError(f"--out {path} is a file; name a directory that does not exist yet")
    if (path / "config.yaml").exists():
        raise UsageError(
            f"{path} already holds a run; choose another --out, or continue it: glocal pretrain --resume {path}"
        )
    return path


def write_config(run: Path, config: dict[str, Any]) -> None:
    """Write config.yaml: complete, and enough to run the same again."""
    run.mkdir(parents=True, exist_ok=True)
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in config.items()}
    partial = run / "config.yaml.partial"
    partial.write_text(yaml.safe_dump(plain, sort_keys=False))
    os.replace(partial, run / "config.yaml")


def read_config(run: Path) -> dict[str, Any]:
    """A run's configuration.

    Raises:
        UsageError: if the directory is not a run.
    """
    path = run / "config.yaml"
    if not path.exists():
        what = "does not exist" if not run.exists() else "is not a run (it has no config.yaml)"
        raise UsageError(f"{run} {what}; runs are the directories that glocal pretrain --out makes")
    try:
        config = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UsageError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(config, dict):
        raise UsageError(f"{path} is empty or not a mapping; start the run again")
    return config


def environment() -> dict[str, str]:
    """Versions and hardware, to be kept with what was trained on them."""
    import timm
    import torch

    cuda = torch.cuda.is_available()
    threads = torch.get_num_threads()
    cpu = f"{platform.system()} {platform.machine()}, {threads} CPU thread{'s' if threads > 1 else ''}"
    return {
        "versions": f"glocal {version('glocal')}, PyTorch {torch.__version__}, timm {timm.__version__}, "
        f"Python {platform.python_version()}",
        "hardware": f"{torch.cuda.device_count()} × {torch.cuda.get_device_name(0)}" if cuda else cpu,
    }
