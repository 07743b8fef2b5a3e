"""What every replication shares: arms × seeds run once each and kept, paired differences with an interval, a verdict.

A run trains with `glocal.pretrain` on the training images of the `SETS` of its module, with the module's `COMMON` under
the arm's options, and is scored by the module's `SCORES` at its last step.

Results lie under replications/results/NAME/, one JSON file per arm and seed. A run that was interrupted is resumed, one
that is finished is not run again, and the table in the docs is made from the files alone.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import resource
import shutil
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from scipy.stats import t as student

import glocal
from glocal.errors import UsageError

RESULTS = Path(__file__).parent / "results"
SEEDS = 3
"""Fewer give no verdict."""
# what runs are: as long as their arm says, on one thread, and nothing but training
RUN: dict[str, Any] = {
    "epochs": 1000,
    "monitor_every": 1000,
    "precision": "bf16-mixed",
    "workers": 0,
    "threads": 1,
    "report": False,
    "quiet": True,
}


@dataclass(frozen=True)
class Arm:
    """One thing that is compared: a name and the arguments of `glocal.pretrain` that make it.

    Without a method it is the encoder as a run of the seed begins with it.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Score:
    """A number that a task gives of an encoder.

    Attributes:
        title: what the table calls it.
        data: a folder among the data, or a collection that is generated ("parts:...").
        task: see `glocal tasks`.
        number: which one of the task's.
        image_size: pixels; by default as in training.
    """

    title: str
    data: str
    task: str
    number: str = "top1"
    image_size: int | None = None


@dataclass(frozen=True)
class Claim:
    """That `more` has more of a score than `less`."""

    more: str
    less: str
    score: str

    def __str__(self) -> str:
        return f"{self.more} − {self.less}, {self.score}"


@dataclass(frozen=True)
class Difference:
    """Mean paired difference over seeds and its 95% interval (Student's t)."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"

    @property
    def verdict(self) -> str:
        """On the claim that it is positive: "reproduced", "not reproduced" or "undecided"."""
        return "reproduced" if self.low > 0 else "not reproduced" if self.high < 0 else "undecided"


def paired(a: dict[int, float], b: dict[int, float]) -> Difference:
    """a − b over the seeds that both have.

    Raises:
        ValueError: with fewer than three common seeds.
    """
    differences = [a[seed] - b[seed] for seed in sorted(a.keys() & b.keys())]
    if len(differences) < SEEDS:
        raise ValueError("a paired difference needs at least three seeds that both arms have")
    mean, n = statistics.fmean(differences), len(differences)
    half = float(student.ppf(0.975, n - 1)) * statistics.stdev(differences) / math.sqrt(n)
    return Difference(mean, mean - half, mean + half)


def place(data: Path | None, name: str) -> str:
    """Where a collection of a protocol is."""
    if name.startswith("parts"):
        return name
    if data is None:
        raise UsageError(f"give --data DIR, the folder in which {name} is")
    return str(data / name)


def trained(folder: Path, sets: Sequence[str], seed: int, options: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """The encoder of a run, which is begun or gone on with, and the last training line of its log.

    Args:
        folder: of the run.
        sets: images to pretrain on.
        seed: of the run.
        options: of `glocal.pretrain`.
    """
    from glocal.run import Run

    if Run(folder).has_checkpoint:
        config = json.loads(json.dumps(Run(folder).config()))
        asked = json.loads(json.dumps(dict(options)))
        if other := [key for key in asked.keys() & config.keys() if asked[key] != config[key]]:
            raise UsageError(f"{folder} is a run with another {min(other)}; delete it, or give other --runs")
        glocal.pretrain(resume=str(folder), quiet=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
        glocal.pretrain(list(sets), out=str(folder), seed=seed, **options)
    return glocal.load(str(folder), trust_code=True), [line for line in Run(folder).metrics() if "time" in line][-1]


def untrained(options: Mapping[str, Any], seed: int) -> Any:
    """The encoder with the weights that a run of this seed begins with."""
    import torch

    from glocal.backbones import build_backbone
    from glocal.config import PretrainConfig
    from glocal.random import derive

    with torch.random.fork_rng():
        torch.manual_seed(derive(seed, "init"))
        given = {key: value for key, value in options.items() if key in (*PretrainConfig().encoder_options, "pool")}
        return build_backbone(options["backbone"], **given).eval()


def measured(encoder: Any, data: Path, scores: Mapping[str, Score]) -> dict[str, float]:
    """The scores of an encoder; those on the same images share its features."""
    wanted: dict[tuple[str, int | None], list[str]] = {}
    for score in scores.values():
        wanted.setdefault((score.data, score.image_size), []).append(score.task)
    results = {
        (name, size): glocal.evaluate(encoder, place(data, name), tasks=list(dict.fromkeys(tasks)), image_size=size)
        for (name, size), tasks in wanted.items()
    }
    return {key: results[s.data, s.image_size][s.task][s.number] for key, s in scores.items()}


def run_folder(module: Any, arm: Arm, seed: int, runs: Path) -> Path:
    """Where a run is kept while it goes."""
    return runs / f"{module.NAME}-{arm.name}-{seed}"


def run_arm(
    module: Any,
    arm: Arm,
    seed: int,
    data: Path,
    runs: Path,
    more: Callable[[Any], dict[str, float]] = lambda encoder: {},
) -> dict[str, Any]:
    """Train one arm of a replication, or go on training, and score it.

    Args:
        module: with NAME, SETS, COMMON and SCORES.
        arm: of it.
        seed: of the run.
        data: folder of the data sets.
        runs: folder of the runs.
        more: further scores of the encoder, by key.
    """
    options, told = {**RUN, **module.COMMON, **arm.options}, {}
    if "method" in options:
        sets = [place(data, name) for name in module.SETS]
        encoder, last = trained(run_folder(module, arm, seed, runs), sets, seed, options)
        told = {"train_seconds": last["time"], "last": last}
    else:
        encoder = untrained(options, seed)
    return {"scores": measured(encoder, data, module.SCORES) | more(encoder), **told}


def cpu_seconds() -> float:
    """Processor time of this process and its finished children so far."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in used)


def keep(
    name: str, arm: Arm, seed: int, run: Callable[[], dict[str, Any]], common: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The result of one arm and seed: read if it was run before, else run and written.

    Args:
        name: of the replication.
        arm: that is run.
        seed: of the run.
        run: gives the result.
        common: options that all arms share, for the record.

    Raises:
        UsageError: if it was run before with other options: results of two protocols do not mix.
    """
    path = RESULTS / name / f"{arm.name}-{seed}.json"
    setting = json.loads(json.dumps({"arm": asdict(arm), "common": dict(common or {})}))
    if path.exists():
        result = json.loads(path.read_text())
        if any(result.get(key, value) != value for key, value in setting.items()):
            raise UsageError(f"{path} was made with other options of '{arm.name}'; delete it, or change them back")
        return result
    started = cpu_seconds()
    result = setting | {"seed": seed, **run(), "cpu_seconds": cpu_seconds() - started, "machine": machine()}
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


def rows(found: Mapping[str, Any], arms: Sequence[Arm], titles: Mapping[str, str]) -> list[str]:
    """Lines of a markdown table: each arm's scores over its seeds."""
    lines = ["| arm | seeds | " + " | ".join(titles.values()) + " |", "|---" * (2 + len(titles)) + "|"]
    for arm in arms:
        if arm.name in found:
            values = [[r["scores"][key] for r in found[arm.name].values() if key in r["scores"]] for key in titles]
            cells = [spread(each) if each else "" for each in values]
            lines.append(f"| {arm.name} | {len(found[arm.name])} | " + " | ".join(cells) + " |")
    return lines


def of(found: Mapping[str, Any], arm: str, score: str) -> dict[int, float]:
    """Seed -> one score of an arm."""
    return {seed: result["scores"][score] for seed, result in found.get(arm, {}).items()}


def difference(found: Mapping[str, Any], claim: Claim) -> Difference | None:
    """What is claimed to be positive; None while there are less than three seeds of both arms."""
    more, less = of(found, claim.more, claim.score), of(found, claim.less, claim.score)
    return paired(more, less) if len(more.keys() & less.keys()) >= SEEDS else None


def overall(verdicts: Sequence[str]) -> str:
    """One for all: "reproduced" if all are, "not reproduced" if one is not, else "undecided"."""
    if "not reproduced" in verdicts:
        return "not reproduced"
    return "reproduced" if set(verdicts) == {"reproduced"} else "undecided"


def claims_table(module: Any, more: Mapping[str, str] = MappingProxyType({})) -> str:
    """Markdown: scores by arm, the claimed differences, and the verdict on all of them together.

    Args:
        module: with NAME, ARMS, SCORES and CLAIMS.
        more: titles of the further scores, by key.
    """
    found = kept(module.NAME)
    if not found:
        return "Not run yet: no verdict."
    lines = rows(found, module.ARMS, {key: score.title for key, score in module.SCORES.items()} | dict(more))
    differences = {claim: difference(found, claim) for claim in module.CLAIMS}
    lines += ["", "Differences claimed to be positive, paired by seed, with 95% intervals:", ""]
    lines += [f"- {claim}: {f'{d} ({d.verdict})' if d else 'not run yet'}" for claim, d in differences.items()]
    verdicts = [d.verdict for d in differences.values() if d]
    missing = len(verdicts) < len(differences)
    return "\n".join([*lines, "", "No verdict yet." if missing else f"Verdict: **{overall(verdicts)}**."])


def replicate(module: Any, run: Callable[[Arm, int, Path, Path], dict[str, Any]] | None = None) -> None:
    """What `python -m replications.NAME` does: run the arms that are asked for, and print the table.

    Args:
        module: with NAME, ARMS and table().
        run: (arm, seed, data, runs) -> a result with its "scores"; by default `run_arm`.
    """
    options = arguments(module.__doc__ or "", module.ARMS)
    if not options.table:
        for seed in options.seeds:
            for arm in module.ARMS:
                if arm.name in options.arms:
                    todo = partial(run, arm, seed) if run else partial(run_arm, module, arm, seed)
                    shared = getattr(module, "COMMON", {})
                    keep(module.NAME, arm, seed, partial(todo, options.data, options.runs), shared)
                    print(f"{arm.name} seed {seed}: done", flush=True)
    print(module.table())


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
