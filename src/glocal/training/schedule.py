"""How long a run is, in numbers."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """How long and how: all a loop needs beside the method and the data."""

    epochs: int  # passes over the data
    max_steps: int | None  # end earlier, after this many optimiser steps, over which the learning rate then decays
    batch_size: int  # images per optimiser step on one process (over all accumulated micro-batches)
    accumulate: int  # micro-batches per step; a loss's batch statistics are then those of one micro-batch
    lr: float  # peak learning rate, already scaled
    clip: float  # largest gradient norm, 0 for none
    monitor_every: int  # epochs between two calls of the monitor
    checkpoint_seconds: float = 300.0  # least time between two checkpoints within an epoch
    checkpoint_steps: int = 0  # also checkpoint every so many steps; 0 for never
    log_steps: int = 10  # steps between two lines of metrics
    patches: tuple[int, ...] = ()  # sides of which one is drawn for each step; none: the encoder's own
