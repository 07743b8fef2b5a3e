"""How long a run is, in numbers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long and how: all a loop needs beside the method and the data.

    Attributes:
        epochs: passes over the data.
        max_steps: end earlier, after this many optimiser steps, over which the learning rate then decays.
        batch_size: images per optimiser step on one process (over all accumulated micro-batches).
        accumulate: micro-batches per step; a loss's batch statistics are then those of one micro-batch.
        lr: peak learning rate, already scaled.
        clip: largest gradient norm, 0 for none.
        monitor_every: epochs between two calls of the monitor.
        checkpoint_seconds: least time between two checkpoints within an epoch.
        checkpoint_steps: also checkpoint every so many steps; 0 for never.
        log_steps: steps between two lines of metrics.
    """

    epochs: int
    max_steps: int | None
    batch_size: int
    accumulate: int
    lr: float
    clip: float
    monitor_every: int
    checkpoint_seconds: float = 300.0
    checkpoint_steps: int = 0
    log_steps: int = 10
