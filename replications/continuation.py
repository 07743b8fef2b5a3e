"""Should I continue a released model? `python -m replications.continuation --data FOLDER`.

A table of our own: released MobileNets, continued on photographs of another kind by the recipe that runs from weights
get by default, by that without its guard, and by the one for new networks. Each is compared with its start on test
images that guided nothing; intervals are of the bootstrap over these. Cells are kept one by one in
replications/results/continuation, and a run that was interrupted goes on; `--page` only writes docs/continue.md again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from replications.cells import RESULTS, machine, write_json
from replications.data import released
from replications.worlds import RUN

SIZE = 96
WEIGHTS = "mobilenet_v1_025", "mobilenet_v1_050"
METHODS = "vicreg", "vicregl", "byol"
SEEDS = 0, 1, 2
ARMS: dict[str, dict[str, Any]] = {
    "default": {},
    "without its guard": {"guard": False},
    "as a new network": {"guard": False, "gentle": False},
}
DATA: dict[str, dict[str, str]] = {  # what is scored there, and by which number
    "clothing": {"knn": "top1"},
    "pets": {"knn": "top1", "segment": "miou"},
    "camvid": {"segment": "miou"},
    "kvasir": {"segment": "miou"},
}
TASKS = {"segment": {"steps": 500}}
STEPS = {"max_steps": 240, "batch_size": 32}
IN_WORDS = {"knn": "kNN accuracy", "segment": "mean IoU"}


@dataclass(frozen=True)
class Cell:
    """One run."""

    data: str
    weights: str
    method: str
    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.data}-{self.weights}-{self.method}-{self.arm.replace(' ', '_')}-{self.seed}"

    @property
    def path(self) -> Path:
        return RESULTS / "continuation" / f"{self}.json"

    @property
    def protocol(self) -> dict[str, Any]:
        """What its numbers depend on and is known beforehand; a result of another one is stale."""
        options = {"method": self.method, "backbone": self.weights, "image_size": SIZE, **STEPS, **ARMS[self.arm]}
        return {"options": options, "scores": DATA[self.data], "tasks": TASKS, "recipe": self.recipe}

    @property
    def recipe(self) -> int:
        """A version of what it rests on besides: how a guard looks at masks has changed three times."""
        return RECIPE + 3 * ("segment" in DATA[self.data] and self.arm == "default")


RECIPE = 1
"""Raised when what runs from weights get by default changes."""


def cells(seeds: tuple[int, ...] = SEEDS) -> Iterator[Cell]:
    """Seed after seed, so that what there is can be compared."""
    for seed, data, weights, method, arm in itertools.product(seeds, DATA, WEIGHTS, METHODS, ARMS):
        yield Cell(data, weights, method, arm, seed)


def stored(cell: Cell) -> dict[str, Any] | None:
    """Its result under today's protocol, if it was run."""
    if not cell.path.exists():
        return None
    result = json.loads(cell.path.read_text())
    return result if result["protocol"] == cell.protocol else None


def measure(cell: Cell, data: Path, runs: Path) -> dict[str, Any]:
    """Train, or go on training, and compare with the start on the test images."""
    import glocal
    from glocal.evaluation.groups import difference
    from glocal.run import Run
    from glocal.training import Harmed

    began, run, folder = time.process_time(), Run(runs / str(cell)), data / cell.data
    weights = released(data, cell.weights)
    asked = runs / f"{cell}.json"
    resumed = run.has_checkpoint and json.loads(asked.read_text()) == cell.protocol  # else of another recipe
    stopped = ""
    try:
        if resumed:
            glocal.pretrain(resume=str(run), quiet=True)
        else:
            shutil.rmtree(run.path, ignore_errors=True)
            write_json(asked, cell.protocol)
            options = RUN | {"monitor_every": None, "epochs": None} | cell.protocol["options"]
            glocal.pretrain(str(folder), out=str(run), seed=cell.seed, pretrained=weights, **options)
    except Harmed as harmed:  # its last checkpoint is what there is
        stopped = str(harmed)
    encoder = glocal.load(str(run))
    trained = None if resumed else round(time.process_time() - began, 1)
    mine, each = scores(encoder, folder, cell.data)
    begun, others = start(weights, cell.weights, encoder.stride, folder, cell.data)
    return {
        "protocol": cell.protocol,
        "start": begun,
        "end": mine,
        "gains": {task: difference(each[task], others[task]) for task in each},
        "step": None if stopped else run.encoder()["extra"]["steps"],
        "stopped": stopped,
        "looks": [line for line in run.metrics() if "loss" not in line],
        "train_cpu_seconds": trained,
        "machine": machine(),
    }


def scores(encoder: Any, folder: Path, data: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The numbers of an encoder on the test images, and what each image adds to them."""
    from glocal.evaluation.evaluate import evaluate_encoder

    each: dict[str, Any] = {}
    options = {task: TASKS[task] for task in DATA[data] if task in TASKS}
    found = evaluate_encoder(encoder, folder, tasks=DATA[data], image_size=SIZE, options=options, each=each)
    return {task: found[task][number] for task, number in DATA[data].items()}, each


@cache
def start(weights: str, backbone: str, stride: int, folder: Path, data: str) -> tuple[dict[str, float], dict[str, Any]]:
    """The `scores` of released weights."""
    from glocal.backbones import build_backbone

    released = build_backbone(backbone, pretrained=weights, image_size=SIZE, output_stride=stride)
    return scores(released.eval(), folder, data)


def mark(gain: tuple[float, tuple[float, float]]) -> str:
    """Whether an encoder ends above its start, below, or neither, by the interval of the difference."""
    _, (low, high) = gain
    return "above" if low > 0 else "below" if high < 0 else "same"


def page(found: dict[Cell, dict[str, Any]]) -> str:
    """What docs/continue.md shows of the results."""
    from replications.pages import table

    if not found:
        return "No cell has been run yet."
    counts, rows = [], []
    for arm in ARMS:
        marks = [mark(gain) for cell, result in found.items() if cell.arm == arm for gain in result["gains"].values()]
        count = {word: marks.count(word) for word in ("above", "same", "below")}
        ended = sum(bool(result["stopped"]) for cell, result in found.items() if cell.arm == arm)
        counts.append([arm, len(marks), *count.values(), ended])
    for data, weights, method in itertools.product(DATA, WEIGHTS, METHODS):
        for task in DATA[data]:
            row = [data, IN_WORDS[task], weights, method]
            for arm in ARMS:
                of = [found[c] for seed in SEEDS if (c := Cell(data, weights, method, arm, seed)) in found]
                row += [_begun(of, task)] * (arm == "default") + [_said([result["gains"][task] for result in of])]
            rows.append(row)
    head = ["photographs", "score", "weights", "method", "start", *ARMS]
    return "\n\n".join(
        [
            table(["recipe", "scores", "above the start", "no difference", "below", "runs that collapsed"], counts),
            table(head, rows),
        ]
    )


def _begun(results: list[dict[str, Any]], task: str) -> str:
    return f"{100 * results[0]['start'][task]:.1f}" if results else ""


def _said(gains: list[Any]) -> str:
    """The mean over seeds, in points, and of how many seeds the interval lies above or below 0."""
    if not gains:
        return ""
    marks = [mark(gain) for gain in gains]
    signs = [f"{marks.count(word)} {word}" for word in ("above", "below") if word in marks]
    return f"{100 * statistics.fmean(gain[0] for gain in gains):+.1f}" + (f" ({', '.join(signs)})" if signs else "")


def main() -> None:
    from replications.pages import insert

    parser = argparse.ArgumentParser(prog="python -m replications.continuation", description=__doc__)
    parser.add_argument("--data", type=Path, default=os.environ.get("GLOCAL_DATA"), help="by default $GLOCAL_DATA")
    parser.add_argument("--runs", type=Path, default=Path("runs/continuation"), help="where cells lie while they run")
    parser.add_argument("--only", default="", help="cells whose name contains this")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--page", action="store_true", help="only write the page again")
    asked = parser.parse_args()
    if not asked.page:
        if asked.data is None:
            parser.error("say where the photographs are: --data")
        for cell in cells(tuple(asked.seeds)):
            if asked.only in str(cell) and stored(cell) is None:
                result = measure(cell, asked.data, asked.runs)
                write_json(cell.path, result)
                shutil.rmtree(asked.runs / str(cell))
                gains = "  ".join(f"{task} {_said([gain])}" for task, gain in result["gains"].items())
                ended = "stopped as collapsed" if result["stopped"] else f"of step {result['step']}"
                print(f"{time.strftime('%H:%M')} {cell}: {gains}, {ended}", flush=True)
    insert("continue.md", page({cell: result for cell in cells() if (result := stored(cell))}))


if __name__ == "__main__":
    main()
