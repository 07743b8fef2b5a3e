"""What a frozen encoder is worth, as a global and as a dense feature.

A task is a function of an `EvalContext`, made one by `@task(needs=...)`, and registered under `glocal.tasks`.
"""

from glocal.evaluation.baseline import Pixels
from glocal.evaluation.context import EvalContext
from glocal.evaluation.evaluate import evaluate_encoder, open_splits, possible_tasks
from glocal.evaluation.extract import FeatureBank, extract, stream
from glocal.evaluation.registry import Task, all_tasks, declared, find_task, task

__all__ = [
    "EvalContext", "FeatureBank", "Pixels", "Task", "all_tasks", "declared", "evaluate_encoder", "extract", "find_task",
    "open_splits", "possible_tasks", "stream", "task",
]  # fmt: skip
