"""The loop, optimisers and schedules, checkpoints, logging."""

from glocal.training.logger import read_metrics
from glocal.training.loop import Interrupted, Monitor, Schedule, TrainingStopped, fit
from glocal.training.optimizers import LARS

__all__ = ["LARS", "Interrupted", "Monitor", "Schedule", "TrainingStopped", "fit", "read_metrics"]
