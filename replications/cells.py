"""A cell of the plan, one arm with one seed: run it, keep its result, tell whether it is of today's protocol.

Results are files of the repository, replications/results/WORLD/ARM-SEED.json; what a cell needs while it runs lies in
runs/replications/WORLD/ARM-SEED/, from where it goes on after any interruption.
"""

from __future__ import annotations

import fcntl
import importlib
import json
import os
import platform
import shutil
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import glocal
from glocal.run import Run
from glocal.training import Harmed
from replications.data import FOLDS, place
from replications.plan import Arm
from replications.recipes import NETWORKS, PROBES, RECIPES, TRAINED
from replications.worlds import MACHINE, RUN, World

RESULTS = Path(__file__).parent / "results"
STABILITY = "replications.measures:stability"
BUSY = 75
"""Exit code of a cell that another process is at."""


@dataclass(frozen=True)
class Cell:
    """One arm with one seed."""

    world: World
    arm: Arm
    seed: int

    def __str__(self) -> str:
        return f"{self.world.name}/{self.arm.name}-{self.seed}"

    @property
    def result_path(self) -> Path:
        return RESULTS / f"{self}.json"

    @property
    def options(self) -> dict[str, Any]:
        """What `glocal.pretrain` is told; without a method, what the untrained encoder is built from."""
        return self.world.options | self.arm.options

    def named(self, data: str) -> str:
        """A folder of data: "NAME@seed" is that fold of five whose turn it is with this seed."""
        return data.replace("@seed", f"@{self.seed % FOLDS}")

    @property
    def takes_time(self) -> bool:
        """Whether it is more than a look at an untrained encoder."""
        return bool("method" in self.options or self.arm.run)

    @property
    def protocol(self) -> dict[str, Any]:
        """All that its numbers depend on and that is known beforehand; a result of another protocol is stale."""
        if self.arm.run:
            versions: dict[str, Any] = {"run": PROBES[self.arm.run]}
            versions["method"] = RECIPES.get(self.options.get("method", ""))
            if self.arm.run in TRAINED:
                versions["trained"] = {method: RECIPES[method] for method in TRAINED[self.arm.run]}
            return json.loads(json.dumps({"options": self.options, "run": self.arm.run, "recipe": versions}))
        scores = {key: asdict(self.world.scores[key]) for key in (*self.world.usual, *self.arm.scores)}
        told = {
            "options": self.options,
            "sets": self.arm.sets or self.world.sets,
            "scores": scores,
            "limit": self.world.limit,
            "measure": self.arm.measure,
            "recipe": RECIPES[self.options.get("method", "random")],
            "network": NETWORKS[self.options["backbone"].rpartition(":")[2]],
            "probes": {score["task"]: PROBES[score["task"]] for score in scores.values()},
        }
        told |= {"teacher": self.arm.teacher} if self.arm.teacher else {}
        told |= {"measure version": PROBES[self.arm.measure]} if self.arm.measure in PROBES else {}
        return json.loads(json.dumps(told))


def stored(cell: Cell) -> dict[str, Any] | None:
    """The result of a cell under today's protocol, if it was run."""
    try:
        result = json.loads(cell.result_path.read_text())
    except FileNotFoundError:
        return None
    return result if result["protocol"] == cell.protocol else None


def run_cell(cell: Cell, data: Path, runs: Path) -> int:
    """Train the cell, or go on training, score it, and write its result: whole or not at all.

    Returns:
        An exit code: 0 when the result is there.
    """
    folder = runs / str(cell)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return BUSY
        if stored(cell) is None:
            write_json(cell.result_path, measure(cell, data, folder))
            shutil.rmtree(folder / "run", ignore_errors=True)
    return 0


def measure(cell: Cell, data: Path, folder: Path) -> dict[str, Any]:
    """A cell's result; its run lies in `folder`."""
    asked = folder / "asked.json"
    run = Run(folder / "run")
    resumed = run.has_checkpoint and json.loads(asked.read_text()) == cell.protocol  # else begun under another one
    result: dict[str, Any] = {"protocol": cell.protocol, "seed": cell.seed}
    began = time.process_time()
    if cell.arm.run:
        shutil.rmtree(run, ignore_errors=True)
        run.path.mkdir()
        result["scores"] = attribute(cell.arm.run)(data, run.path, cell.seed, cell.options)
        result["cpu_seconds"] = round(time.process_time() - began, 1)
        return result | {"machine": machine()}
    if "method" not in cell.options:
        encoder = untrained(cell.options, cell.seed)
    else:
        try:
            if resumed:
                glocal.pretrain(resume=str(run), quiet=True, trust_code=True)
            else:
                shutil.rmtree(run, ignore_errors=True)
                write_json(asked, cell.protocol)
                sets = [place(data, cell.named(name)) for name in cell.protocol["sets"]]
                glocal.pretrain(sets, out=str(run), seed=cell.seed, **{**RUN, **cell.options})
        except Harmed as stopped:
            if cell.arm.measure != STABILITY:
                raise
            result["stopped"] = str(stopped)  # which may be what is measured: on its last good checkpoint
        encoder = glocal.load(str(run), trust_code=True)
        result["resolved"] = {key: value for key, value in run.config().items() if key not in MACHINE}
        result["last"] = [line for line in run.metrics() if "loss" in line][-1]
        result["train_cpu_seconds"] = None if resumed else round(time.process_time() - began, 1)
    result["scores"] = scored(encoder, cell, data, cell.protocol["scores"])
    if cell.arm.teacher:
        teacher = glocal.load(str(run), which="teacher", trust_code=True)
        result["scores"] |= {f"teacher {key}": x for key, x in scored(teacher, cell, data, cell.arm.teacher).items()}
    if cell.arm.measure:
        result["scores"] |= attribute(cell.arm.measure)(run)
    result["cpu_seconds"] = None if resumed else round(time.process_time() - began, 1)
    return result | {"machine": machine()}


def attribute(place: str) -> Callable[..., Any]:
    """What stands at "module:function"."""
    module, _, function = place.partition(":")
    return getattr(importlib.import_module(module), function)


def untrained(options: Mapping[str, Any], seed: int) -> Any:
    """The encoder with the weights that a run of this seed begins with."""
    from glocal.backbones import build_backbone
    from glocal.evaluation.baseline import start_of

    names = ("image_size", "stem", "output_stride", "pool")
    given = {name: options[name] for name in names if name in options}
    return start_of(build_backbone(options["backbone"], **given), seed=seed)


def scored(encoder: Any, cell: Cell, data: Path, keys: Iterable[str]) -> dict[str, float]:
    """Some of the world's scores; those on the same images at the same size share the encoder's features."""
    wanted = {key: cell.world.scores[key] for key in keys}
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for where in dict.fromkeys((name, s.image_size) for s in wanted.values() for name in s.data):
        name, size = where
        options = {s.task: s.options for s in wanted.values() if name in s.data and s.image_size == size}
        found[where] = glocal.evaluate(
            encoder,
            place(data, cell.named(name)),
            tasks=list(options),
            image_size=size or cell.options["image_size"],
            task_options=options,
            limit=cell.world.limit,
        )
    return {
        key: statistics.fmean(found[name, s.image_size][s.task][s.number] for name in s.data)
        for key, s in wanted.items()
    }


def machine() -> dict[str, str]:
    """Hardware and versions."""
    import timm
    import torch

    return {
        "processor": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "timm": timm.__version__,
        "python": platform.python_version(),
    }


def write_json(path: Path, content: Any) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    partial.write_text(json.dumps(content, indent=1) + "\n")
    partial.rename(path)
