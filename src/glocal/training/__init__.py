"""What is decided, the loop, optimisers and schedules, checkpoints, logging."""

from glocal.training.defaults import Machine, Resolved, resolve, this_machine
from glocal.training.guard import Monitor
from glocal.training.loop import fit
from glocal.training.optimizers import LARS
from glocal.training.schedule import Schedule
from glocal.training.stopping import Harmed, Interrupted, TrainingStopped
from glocal.views import Loader

__all__ = [
    "LARS", "Harmed", "Interrupted", "Loader", "Machine", "Monitor", "Resolved", "Schedule", "TrainingStopped", "fit",
    "resolve", "this_machine",
]  # fmt: skip
