"""What a frozen encoder is worth, as a global and as a dense feature.

A task is a function of an `EvalContext` (a frozen encoder, a training and a test collection), registered by name
under the entry-point group `glocal.tasks`:

    @task(needs={"labels"}, main="score")
    def mine(context: EvalContext, *, option: float = 1.0) -> dict:
        "One line that `glocal tasks` shows."
        train, test = context.bank("train"), context.bank("test")  # pooled features, extracted once for all tasks
        return {"score": ...}
"""

from __future__ import annotations

from glocal.evaluation.baseline import Pixels
from glocal.evaluation.context import EvalContext
from glocal.evaluation.evaluate import evaluate_encoder, open_splits, possible_tasks
from glocal.evaluation.extract import FeatureBank, extract, stream
from glocal.evaluation.registry import Task, all_tasks, declared, find_task, task

__all__ = [
    "EvalContext",
    "FeatureBank",
    "Pixels",
    "Task",
    "all_tasks",
    "declared",
    "evaluate_encoder",
    "extract",
    "find_task",
    "open_splits",
    "possible_tasks",
    "stream",
    "task",
]
