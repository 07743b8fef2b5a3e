"""Checkpoints: everything a run needs to go on exactly as if it had never stopped, written atomically."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pickle import UnpicklingError
from typing import Any

import torch
from torch import nn

from glocal.errors import UsageError
from glocal.fabric import Precision
from glocal.methods import Optimization
from glocal.run import Run, write_atomically
from glocal.training.guard import Guard
from glocal.views import EpochPlan

BROKEN = (RuntimeError, ValueError, KeyError, TypeError, AttributeError, EOFError, UnpicklingError)
"""What reading a damaged checkpoint, or one of other shapes, raises."""


@dataclass
class Position:
    """Where a run stands."""

    step: int = 0  # optimiser steps taken
    epoch: int = 0  # the one under way
    batch: int = 0  # batches of that epoch already consumed
    seconds: float = 0.0  # training time so far
    skipped: dict[Any, str] = field(default_factory=dict)  # sample id, or key -> why it could not be read
    passed: tuple[int, str] | None = None  # see `Batch`
    shrunk: int = 0  # views so far, see `Batch`
    plan: EpochPlan | None = None  # of that epoch, or of the last one, where the method makes plans
    guard: Guard | None = None  # where there is one


def save_checkpoint(
    run: Run,
    method: Any,
    optimization: Optimization,
    optimizer: torch.optim.Optimizer,
    precision: Precision,
    position: Position,
) -> None:
    """Write the run's checkpoint, and keep the one before."""
    parts = {name: part and vars(part) for name, part in (("plan", position.plan), ("guard", position.guard))}
    state = {
        "method": method.state_dict(),
        "optimization": asdict(optimization),
        "optimizer": optimizer.state_dict(),
        "precision": precision.state_dict(),  # the scale of losses in fp16
        "position": {**vars(position), **parts},
        "encoder": getattr(method.encoder, "config", None),  # None: not a Backbone
    }
    if run.checkpoint_file.is_file():  # else a kill fell between these two lines
        run.checkpoint_file.replace(run.previous_checkpoint)
    write_atomically(run.checkpoint_file, lambda path: torch.save(state, path))


def begun_under(state: Mapping[str, Any], optimization: Optimization, steps: int) -> Optimization:
    """The optimisation that a run goes on with: its checkpoint's, whatever would be decided for a new one today.

    Older checkpoints hold none: their runs knew no `no_decay`, and gave momentum to all in less than 30,000 steps.
    """
    if stored := state.get("optimization"):
        return Optimization(**stored)
    return replace(optimization, no_decay=(), no_momentum=() if steps < 30_000 else optimization.no_momentum)


def restore_method(run: Run, state: Mapping[str, Any], method: nn.Module) -> None:
    """Give a method the weights of the run's checkpoint; it may change what parameters it has: then its optimiser."""
    with _fitting(run):
        method.load_state_dict(state["method"])


def restore(run: Run, state: Mapping[str, Any], optimizer: torch.optim.Optimizer, precision: Precision) -> Position:
    """Take what else the run's checkpoint holds, and say where the run stood."""
    with _fitting(run):
        optimizer.load_state_dict(state["optimizer"])
        if state.get("precision"):
            precision.load_state_dict(state["precision"])
        plan, guard = (state["position"].get(name) for name in ("plan", "guard"))
        return Position(**{**state["position"], "plan": plan and EpochPlan(**plan), "guard": guard and Guard(**guard)})


@contextmanager
def _fitting(run: Run) -> Iterator[None]:
    """What is refused, or does not fit, is a `UsageError`."""
    try:
        yield
    except UsageError as refusal:  # a method's own
        raise UsageError(f"{run} cannot be resumed: {refusal}") from refusal
    except BROKEN as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"{run} cannot be resumed: {reason}; was config.yaml changed since?") from error


def all_finite(module: nn.Module) -> bool:
    """Whether every parameter is finite: a checkpoint that is not would replace the last good one."""
    norms = torch._foreach_norm([p.detach() for p in module.parameters()])
    return bool(torch.isfinite(torch.stack([norm.float() for norm in norms])).all())
