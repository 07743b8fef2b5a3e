"""What a run directory says in its text files: config, metrics, scores, skipped images."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from glocal.errors import UsageError
from glocal.run import Run

Scores = dict[str, dict[str, float]]
"""Task -> metric -> value."""

ARMS = ("encoder", "random", "pixels")
"""Whose scores evaluation.json holds: the run's encoder, the same network untrained, and the image's own pixels."""


SETTINGS = {"temperature", "lr", "wd", "output_stride"}
"""Real numbers beside a task's scores that are not scores. Whole numbers never are."""


@dataclass(frozen=True)
class RunRecord:
    """The text files of a run directory, each empty when the file is missing.

    Attributes:
        path: the run directory.
        config: config.yaml, as parsed.
        config_text: config.yaml, as written.
        training: the lines of metrics.jsonl that carry a loss, in order.
        monitor: its other lines (online kNN and rank), in order.
        scores: arm ("encoder", "random", "pixels") -> task -> metric -> value.
        meta: how the encoder was scored ("data", "split", "n_train", "n_test", ...).
        skipped: lines of skipped.txt, one per image that could not be read.
        encoder: encoder.json.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    config_text: str = ""
    training: list[dict[str, Any]] = field(default_factory=list)
    monitor: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, Scores] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    encoder: dict[str, Any] = field(default_factory=dict)

    @property
    def tested(self) -> int | None:
        """Number of test images, if known."""
        count = self.meta.get("n_test")
        return count if isinstance(count, int) and count > 0 else None

    @property
    def trained(self) -> int | None:
        """Number of images trained on, if known."""
        count = (self.encoder.get("extra") or {}).get("images")
        return count if isinstance(count, int) and count > 0 else None

    @property
    def environment(self) -> dict[str, str]:
        """ "versions" and "hardware" of the training, if known."""
        extra = self.encoder.get("extra") or {}
        return {name: extra[name] for name in ("versions", "hardware") if isinstance(extra.get(name), str)}

    def setting(self, *names: str) -> Any:
        """The first of these config keys that is set, at any depth (shallow first), or None."""
        for name in names:
            if (value := _find(self.config, name)) is not None:
                return value
        return None


def read_run(run_dir: str | Path) -> RunRecord:
    """Read what there is.

    Raises:
        UsageError: if the directory does not exist or config.yaml or evaluation.json cannot be parsed.
    """
    path = Path(run_dir)
    if not path.is_dir():
        raise UsageError(
            f"{path} is not a run directory: give the folder that pretraining wrote (it holds config.yaml)"
        )
    config_text = _text(path / "config.yaml")
    try:
        config = yaml.safe_load(config_text) or {}
    except yaml.YAMLError as error:
        raise UsageError(
            f"{path / 'config.yaml'} is not valid YAML ({str(error).splitlines()[0]}): restore or delete it"
        ) from error
    evaluation = _json(path / "evaluation.json")
    meta = _arms(evaluation)["encoder"].get("meta")
    lines = Run(path).metrics()
    return RunRecord(
        path=path,
        config=config if isinstance(config, dict) else {},
        config_text=config_text,
        training=[line for line in lines if "loss" in line],
        monitor=[line for line in lines if "loss" not in line],
        scores=_scores(evaluation),
        meta=meta if isinstance(meta, dict) else {},
        skipped=[line for line in _text(path / "skipped.txt").splitlines() if line.strip()],
        encoder=_json(path / "encoder.json"),
    )


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _json(path: Path) -> dict[str, Any]:
    text = _text(path)
    if not text.strip():
        return {}
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{path} is not valid JSON (line {error.lineno}): delete it and evaluate the run again"
        ) from error
    return value if isinstance(value, dict) else {}


def _scores(evaluation: Mapping[str, Any]) -> dict[str, Scores]:
    """Each task's finite real numbers; lists, per-class tables, settings and `meta` are left out."""
    arms = {arm: tasks for arm, tasks in _arms(evaluation).items() if isinstance(tasks, Mapping)}
    kept = {
        arm: {
            task: {name: value for name, value in numbers.items() if is_score(name, value)}
            for task, numbers in tasks.items()
            if task != "meta" and isinstance(numbers, Mapping)
        }
        for arm, tasks in arms.items()
    }
    return {arm: {task: scores for task, scores in tasks.items() if scores} for arm, tasks in kept.items()}


def _arms(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """The encoder's own tasks stand at the top level, beside the baselines, or under "encoder"."""
    own = {name: value for name, value in evaluation.items() if name not in ARMS}
    return {"encoder": own, **{arm: evaluation[arm] for arm in ARMS if arm in evaluation}}


def is_score(name: str, value: Any) -> bool:
    """Whether a task's number is a result, rather than a setting or a score on validation images."""
    setting = name in SETTINGS or name.startswith("validation") or name.endswith("_uniform")
    return isinstance(value, float) and math.isfinite(value) and not setting


def _find(config: Mapping[str, Any], name: str) -> Any:
    if config.get(name) is not None:
        return config[name]
    for value in config.values():
        if isinstance(value, Mapping) and (found := _find(value, name)) is not None:
            return found
    return None
