"""The loop, optimisers and schedules, checkpoints, logging."""

from glocal.training.logger import read_metrics
from glocal.training.loop import Monitor, Schedule, fit
from glocal.training.optimizers import LARS
from glocal.training.protocols import Appearance, Loader
from glocal.training.stopped import Interrupted, TrainingStopped

__all__ = [
    "LARS",
    "Appearance",
    "Interrupted",
    "Loader",
    "Monitor",
    "Schedule",
    "TrainingStopped",
    "fit",
    "read_metrics",
]
