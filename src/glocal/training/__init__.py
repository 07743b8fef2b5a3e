"""What is decided, the loop, optimisers and schedules, checkpoints, logging."""

from glocal.training.defaults import Machine, Resolved, resolve, this_machine
from glocal.training.loop import Monitor, fit
from glocal.training.optimizers import LARS
from glocal.training.schedule import Schedule
from glocal.training.stopping import Interrupted, TrainingStopped
from glocal.views import Loader

__all__ = [
    "LARS", "Interrupted", "Loader", "Machine", "Monitor", "Resolved", "Schedule", "TrainingStopped", "fit", "resolve",
    "this_machine",
]  # fmt: skip
