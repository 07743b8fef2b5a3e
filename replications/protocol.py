"""What every replication shares: arms × seeds run once each and kept, paired differences with an interval, a verdict.

Results lie under replications/results/NAME/, one JSON file per arm and seed. A run that was interrupted is resumed, one
that is finished is not run again, and the table in the docs is made from the files alone.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
# two-sided 95% quantiles of Student's t, by degrees of freedom
T95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262}


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a name and the arguments of `glocal.pretrain` that make it."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Difference:
    """Mean paired difference over seeds and its 95% interval (Student's t)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def paired(a: dict[int, float], b: dict[int, float]) -> Difference:
    """a − b over the seeds that both have.

    Raises:
        ValueError: with fewer than two common seeds.
    """
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if len(differences) < 2:
        raise ValueError("a paired difference needs at least two seeds that both arms have")
    mean, n = statistics.fmean(differences), len(differences)
    half = T95[n - 1] * statistics.stdev(differences) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half)


def cpu_seconds() -> float:
    """Processor time of this process and its finished children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def keep(name: str, arm: Arm, seed: int, run: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The result of one arm and seed: read if it was run before, else run and written."""
    path = RESULTS / name / f"{arm.name}-{seed}.json"
    if path.exists():
        return json.loads(path.read_text())
    started = cpu_seconds()
    result = {"arm": asdict(arm), "seed": seed, **run(), "cpu_seconds": cpu_seconds() - started, "machine": machine()}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(result, indent=1) + "\n")
    partial.rename(path)
    return result


def kept(name: str) -> dict[str, dict[int, dict[str, Any]]]:
    """All results of a replication: arm -> seed -> result."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted((RESULTS / name).glob("*.json")):
        result = json.loads(path.read_text())
        found.setdefault(result["arm"]["name"], {})[result["seed"]] = result
    return found


def machine() -> dict[str, str]:
    """Hardware and versions."""
    import timm
    import torch

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {"device": device, "torch": torch.__version__, "timm": timm.__version__, "python": platform.python_version()}


def spread(values: list[float]) -> str:
    """'.412 ± .010': mean and standard deviation over seeds."""
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{statistics.fmean(values):.3f} ± {statistics.stdev(values):.3f}"


def arguments(doc: str, arms: list[Arm]) -> argparse.Namespace:
    """The command line that all replications have."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder holding the unpacked data sets")
    parser.add_argument(
        "--runs", type=Path, default=Path("runs/replications"), help="where runs are kept while they go"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=[arm.name for arm in arms], choices=[arm.name for arm in arms])
    parser.add_argument("--table", action="store_true", help="only print the table and verdict from what is kept")
    return parser.parse_args()
