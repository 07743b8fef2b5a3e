"""What the report derives from a run's text files: configuration, metrics, scores, skipped images."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glocal.run import Run

BASELINES = ("start", "pixels")
"""Whose scores stand beside the encoder's: of the weights it started from, and of the image's own pixels."""


@dataclass(frozen=True)
class RunRecord:
    """The text files of a run, each empty when it is missing: config.yaml, encoder.json, ...

    Attributes:
        training: the lines of metrics.jsonl that carry a loss, in order.
        monitor: its other lines (online kNN and rank), in order.
        scores: "encoder", its "teacher" and the baselines, those there are -> task -> what it returned.
        meta: how the encoder was scored ("data", "split", "n_train", "n_test", "start").
        skipped: a line for each image that could not be read.
        rounds: of pruning, the share of the weights that was left after each and, as `scores` has them, its scores.
        later: what the encoder was scored on since, in words -> this record with those scores.
    """

    path: Path
    config: dict[str, Any] = field(default_factory=dict)
    training: list[dict[str, Any]] = field(default_factory=list)
    monitor: list[dict[str, Any]] = field(default_factory=list)
    scores: dict[str, dict[str, Any]] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    encoder: dict[str, Any] = field(default_factory=dict)
    rounds: list[tuple[float, dict[str, dict[str, Any]]]] = field(default_factory=list)
    later: dict[str, "RunRecord"] = field(default_factory=dict)

    @property
    def start(self) -> str:
        """The weights that the run started from, in words."""
        released = {True: "released weights", False: "random initialisation", None: "random initialisation"}
        pretrained = self.config.get("pretrained")
        return str(self.meta.get("start") or released.get(pretrained, pretrained))

    @property
    def names(self) -> dict[str, str]:
        """The encoder, its teacher and the baselines, in words."""
        return {
            "encoder": "This run",
            "teacher": "Its teacher",
            "start": f"Start: {self.start}",
            "pixels": "Raw pixels",
        }

    @property
    def trained(self) -> int | None:
        """Number of images trained on, if known."""
        return (self.encoder.get("extra") or {}).get("images") or None


def read_run(run_dir: str | Path) -> RunRecord:
    """Read what there is; a `UsageError` if it is no run, or one of its files cannot be parsed."""
    run = Run.open(run_dir)
    metrics = run.metrics()
    found = run.scores()
    later = found.pop("later", {})
    record = RunRecord(
        path=run.path,
        config=run.config(),
        training=[line for line in metrics if "loss" in line],
        monitor=[line for line in metrics if "loss" not in line],
        skipped=run.skipped(),
        encoder=run.encoder(),
        rounds=_rounds(run),
        **_arms(found),
    )
    return replace(record, later={where: replace(record, **_arms(scores)) for where, scores in later.items()})


def _rounds(run: Run) -> list[tuple[float, dict[str, dict[str, Any]]]]:
    """Those before the last, which is the run itself."""
    rounds = [Run(path) for path in run.rounds.glob("*") if (path / "config.yaml").exists()]
    return sorted((each.config()["keep"], _arms(each.scores())["scores"]["encoder"]) for each in rounds)


def _arms(found: dict[str, Any]) -> dict[str, Any]:
    """What evaluation found, by arm and task."""
    # in older runs the start was always random, and called so
    found = {"start" if name == "random" else name: scores for name, scores in found.items()}
    others = [name for name in ("teacher", *BASELINES) if name in found]
    arms = {"encoder": {name: found[name] for name in found if name not in others}, **{k: found[k] for k in others}}
    scores = {arm: {task: value for task, value in tasks.items() if task != "meta"} for arm, tasks in arms.items()}
    return {"scores": scores, "meta": arms["encoder"].get("meta", {})}
