"""What a run's text files say: its configuration, metrics, scores and skipped images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from glocal.errors import UsageError
from glocal.training import read_metrics

Scores = dict[str, dict[str, Any]]
"""Task -> what it returned."""

ARMS = ("encoder", "start", "pixels")
"""Whose scores evaluation.json holds: the run's encoder, the weights it started from, and the image's own pixels."""


@dataclass(frozen=True)
class RunRecord:
    """The text files of a run directory, each empty when the file is missing.

    Attributes:
        path: the run directory.
        config: config.yaml.
        training: the lines of metrics.jsonl that carry a loss, in order.
        monitor: its other lines (online kNN and rank), in order.
        scores: arm -> task -> what the task returned.
        meta: how the encoder was scored ("data", "split", "n_train", "n_test", "start").
        skipped: a line for each image that could not be read.
        encoder: encoder.json.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    monitor: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    encoder: dict[str, Any] = field(default_factory=dict)

    @property
    def start(self) -> str:
        """The weights that the run started from, in words."""
        return str(self.meta.get("start") or "random initialisation")

    @property
    def names(self) -> dict[str, str]:
        """The arms, in words."""
        return {"encoder": "This run", "start": f"Start: {self.start}", "pixels": "Raw pixels"}

    @property
    def trained(self) -> int | None:
        """Number of images trained on, if known."""
        return (self.encoder.get("extra") or {}).get("images") or None

    def tested(self, task: str) -> int | None:
        """Number of test images that a task looked at, if known."""
        return self.scores["encoder"][task].get("images") or self.meta.get("n_test") or None


def read_run(run_dir: str | Path) -> RunRecord:
    """Read what there is.

    Raises:
        UsageError: if the directory does not exist or one of its files cannot be parsed.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise UsageError(
            f"{path} is not a run directory: give the folder that pretraining wrote (it holds config.yaml)"
        )
    config, metrics, scores, skipped, encoder = _files(path)
    arms = _arms(scores)
    return RunRecord(
        path=path,
        config=config,
        training=[line for line in metrics if "loss" in line],
        monitor=[line for line in metrics if "loss" not in line],
        scores={arm: {task: found for task, found in tasks.items() if task != "meta"} for arm, tasks in arms.items()},
        meta=arms["encoder"].get("meta", {}),
        skipped=skipped,
        encoder=encoder,
    )


def _files(path: Path) -> tuple[dict, list[dict], dict, list[str], dict]:
    def text(name: str) -> str:
        return (path / name).read_text(encoding="utf-8", errors="replace") if (path / name).is_file() else ""

    try:
        config = yaml.safe_load(text("config.yaml")) or {}
    except yaml.YAMLError as error:
        raise UsageError(f"{path / 'config.yaml'} is not valid YAML ({str(error).splitlines()[0]})") from error
    found = []
    for name in ("evaluation.json", "encoder.json"):
        try:
            found.append(json.loads(text(name) or "{}"))
        except json.JSONDecodeError as error:
            raise UsageError(f"{path / name} is not valid JSON (line {error.lineno}): evaluate again") from error
    return config, read_metrics(path), found[0], [line for line in text("skipped.txt").splitlines() if line], found[1]


def _arms(scores: dict[str, Any]) -> dict[str, Scores]:
    """The encoder's own tasks stand at the top level, beside the baselines. "start" was once called "random"."""
    scores = {"start" if name == "random" else name: found for name, found in scores.items()}
    own = {name: found for name, found in scores.items() if name not in ARMS}
    return {"encoder": own, **{arm: scores[arm] for arm in ARMS[1:] if arm in scores}}
