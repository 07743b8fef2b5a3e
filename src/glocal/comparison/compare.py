"""Train every method of a comparison on every seed, score, keep, and write the page."""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml

from glocal.backbones import load_encoder
from glocal.comparison.measure import Cost, train
from glocal.comparison.page import write_page
from glocal.comparison.protocol import Budget, Entry, Protocol
from glocal.config import PretrainConfig
from glocal.data import open_source
from glocal.data.source import ImageSource
from glocal.devices import find_device
from glocal.errors import UsageError
from glocal.evaluation import Pixels
from glocal.evaluation.baseline import score, start_of, start_words
from glocal.methods import method_class
from glocal.pipeline.prepare import measure_backbone
from glocal.run import Run, write_json
from glocal.training import resolve, this_machine

CALIBRATION_STEPS = 21  # rates are logged at steps 1, 10 and 20; the first holds the start


def compare_methods(entries: list[Entry], protocol: Protocol, out: Path, *, say: Any = print) -> Path:
    """Run what has not been run, then write comparison.{json,html} to the directory `out`, which is returned.

    The protocol stands once it is written there: a `UsageError` if it is another one, or if a run fails.

    Args:
        entries: the lines.
        protocol: what they share.
        out: the comparison's directory.
        say: told of each finished run.
    """
    budget = Budget.parse(protocol.budget)
    source = open_source(protocol.data)
    shared = _settle(protocol, entries, source, out)
    for seed in range(protocol.seeds):
        for entry in entries:
            path = out / "runs" / f"{entry.folder}-{seed}"
            done = Path(f"{path}.json")
            if done.exists():
                continue
            settings = {"data": protocol.data, "method": entry.method, **protocol.settings, **shared, **entry.options}
            settings |= {"seed": seed, "report": False, "monitor_every": 10**6}
            steps = _steps(entry, settings, budget, len(source), out)
            settings |= {"max_steps": steps, "epochs": -(-steps // max(1, len(source) // shared["batch_size"]))}
            cost = _train(settings, path)
            scores = _score(load_encoder(str(path), trust_code=True).eval(), protocol, settings["image_size"], seed)
            about = {"entry": entry.text, "seed": seed, "steps": steps}
            write_json(done, about | {"cost": asdict(cost), "scores": scores})
            say(f"{entry.text}, seed {seed}: {steps} steps in {cost.seconds:.0f} s")
    write_page(out, asdict(protocol), _results(out), _baselines(entries, protocol, out))
    return out


def _train(settings: dict[str, Any], path: Path) -> Cost:
    file = Path(f"{path}.yaml")
    file.write_text(yaml.safe_dump(settings, sort_keys=False))
    return train(file, path)


def _results(out: Path) -> dict[str, list[dict[str, Any]]]:
    """Every finished run, by line, in the order in which the lines were first run."""
    files = sorted((out / "runs").glob("*-[0-9]*.json"), key=lambda path: path.stat().st_mtime_ns)
    results: dict[str, list[dict[str, Any]]] = {}
    for result in (json.loads(path.read_text()) for path in files):
        results.setdefault(result["entry"], []).append(result)
    return results


def _settle(protocol: Protocol, entries: list[Entry], source: ImageSource, out: Path) -> dict[str, Any]:
    """Write the protocol and what it leaves to be decided, or find the same one written; give what was decided.

    Methods that are added later take what was decided for the first ones.
    """
    path = out / "comparison.yaml"
    wanted = json.loads(json.dumps(asdict(protocol)))
    if path.exists():
        stands = yaml.safe_load(path.read_text())
        different = [name for name in wanted if stands.get(name) != wanted[name] and name != "seeds"]
        if different:
            what = f"a comparison with other {', '.join(different)} (see {path})"
            raise UsageError(f"{out} holds {what}; choose another --out")
        return stands["decided"]
    finest = max(entries, key=lambda entry: method_class(entry.method).least_cells)
    config = PretrainConfig(method=finest.method, **protocol.settings)
    machine = this_machine(config.accelerator)
    if least := method_class(finest.method).least_cells:
        machine = measure_backbone(config, machine, least)
    resolved = resolve(config, source, machine)[0].config
    decided = {name: getattr(resolved, name) for name in ("batch_size", "workers", "precision", "output_stride")}
    decided["compile"] = False  # else measured for each method and seed anew
    (out / "runs").mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(wanted | {"decided": decided}, sort_keys=False))
    return decided


def _steps(entry: Entry, settings: dict[str, Any], budget: Budget, images: int, out: Path) -> int:
    """Steps that the budget pays for; budgets of time measure the method first, once for all seeds."""
    if budget.unit != "seconds":
        return budget.steps(images, settings["batch_size"], 0.0)
    path = out / "runs" / f"{entry.folder}-speed"
    if not any(line.get("step") == CALIBRATION_STEPS - 1 for line in Run(path).metrics()):
        shutil.rmtree(path, ignore_errors=True)  # interrupted: what is gone on with has to start its workers again
        _train(settings | {"max_steps": CALIBRATION_STEPS, "epochs": 10**6}, path)
    rate = next(line["images_per_second"] for line in Run(path).metrics() if line.get("step") == CALIBRATION_STEPS - 1)
    return budget.steps(images, settings["batch_size"], settings["batch_size"] / rate)


def _score(encoder: Any, protocol: Protocol, image_size: int, seed: int) -> dict[str, Any]:
    settings: dict[str, Any] = {"tasks": protocol.tasks, "limit": protocol.limit}
    encoder.to(find_device(protocol.settings.get("accelerator", "auto")))
    return score(encoder, protocol.evaluate_on, image_size=image_size, seed=seed, **settings)


def _baselines(entries: list[Entry], protocol: Protocol, out: Path) -> dict[str, dict[str, Any]]:
    """Scores of the weights that the runs started from, for each of their ways to pool, and of raw pixels."""
    path, size = out / "runs" / "baselines.json", protocol.settings["image_size"]
    found = json.loads(path.read_text()) if path.exists() else {}
    image = torch.linspace(-1, 1, 3 * size**2).view(1, 3, size, size)
    runs = {method_class(entry.method).pool: out / "runs" / f"{entry.folder}-0" for entry in entries}
    for pool, run in sorted(runs.items()):
        if not run.exists():  # somebody needed the space
            continue
        start = start_of(load_encoder(run, trust_code=True))
        pooled, start.pool = start(image).pooled, "mean"
        if not torch.allclose(pooled, start(image).pooled):  # of a ResNet, native is the mean
            start.pool = pool
        arms = {f"{start_words(start)}, {start.pool} pool": start, "raw pixels": Pixels(stride=start.stride)}
        found |= {name: _score(arm, protocol, size, 0) for name, arm in arms.items() if name not in found}
    write_json(path, found)
    return found
