"""The training loop."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import nn

from glocal.methods import Optimization
from glocal.random import derive
from glocal.training.buffers import check_buffers
from glocal.training.checkpoint import Position, all_finite, load_checkpoint, save_checkpoint
from glocal.training.logger import RunLogger
from glocal.training.optimizers import build_optimizer, clip_per_parameter, frozen_until, set_rates
from glocal.training.protocols import Appearance, Loader
from glocal.training.stopped import Interrupted, TrainingStopped
from glocal.views import Appearance as ViewAppearance
from glocal.views import PlainImages, ViewLoader

Monitor = Callable[[nn.Module, int], dict[str, float]]
"""(encoder, epoch) -> numbers for the log; raises `TrainingStopped` when going on makes no sense."""


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


def fit(
    fabric: Fabric,
    method: Any,
    loader: Loader,
    appearance: Appearance,
    run: Path,
    *,
    optimization: Optimization,
    schedule: Schedule,
    seed: int,
    resume: bool = False,
    monitor: Monitor | None = None,
    quiet: bool = False,
) -> Position:
    """Train `method` on the views of `loader`, keeping the run directory such that a stop at any moment loses little.

    Args:
        fabric: launched; says devices, processes and precision.
        method: see `glocal.methods`.
        loader: batches of `schedule.batch_size / schedule.accumulate` images of this process.
        appearance: of the views that the loader has not finished.
        run: the run's directory.
        optimization: optimiser and schedule shape.
        schedule: lengths and sizes.
        seed: of everything drawn during training.
        resume: continue from the run's checkpoint.
        monitor: called on the main process every few epochs; give all processes one, since the others wait for it.
        quiet: print nothing.

    Returns:
        Where training ended.

    Raises:
        TrainingStopped: with a diagnosis; `Interrupted` on Ctrl-C.
    """
    steps_per_epoch = loader.steps_per_epoch // schedule.accumulate
    total_steps = schedule.epochs * steps_per_epoch
    if schedule.max_steps is not None:
        total_steps = min(total_steps, schedule.max_steps)

    def early(epochs: float) -> int:
        """Steps of that many first epochs, at most a tenth of the run."""
        return int(min(epochs * steps_per_epoch, total_steps / 10))

    stretched = round(total_steps * optimization.stretch)
    clip = schedule.clip or optimization.clip
    warmup_steps = early(optimization.warmup_epochs)
    frozen = frozen_until(method, {start: early(epochs) for start, epochs in optimization.frozen.items()})

    method.to(device=fabric.device, memory_format=torch.channels_last)
    optimizer = build_optimizer(method, optimization, schedule.lr)
    at = load_checkpoint(run, method, optimizer, fabric.strategy.precision) if resume else Position(skipped={})
    assert at.skipped is not None
    wrapped, optimizer_ = fabric.setup(method, optimizer)
    bank = None
    if hasattr(method, "before_epoch"):
        assert isinstance(loader, ViewLoader), "methods with before_epoch look at images"
        assert isinstance(appearance, ViewAppearance)
        size, rank, world_size = method.recipe.views[0].size, fabric.global_rank, fabric.world_size
        bank = PlainImages(loader, size, appearance, device=fabric.device, rank=rank, world_size=world_size)
    log = RunLogger(run, steps=total_steps, step=at.step, active=fabric.is_global_zero, quiet=quiet)
    clock, saved, logged = time.monotonic() - at.seconds, time.monotonic(), (at.step, time.monotonic())

    def checkpoint() -> None:
        nonlocal saved
        at.seconds, saved = time.monotonic() - clock, time.monotonic()
        if not all_finite(method):
            raise TrainingStopped(
                f"the weights are no longer finite at step {at.step}; {run} keeps the last good checkpoint. "
                "Try a lower --lr, --clip 1, or --precision 32"
            )
        check_buffers(method)
        if fabric.is_global_zero:
            save_checkpoint(run, method, optimizer, fabric.strategy.precision, at)
        fabric.barrier()

    def sync_flags() -> tuple[bool, bool]:
        """Whether to stop, and whether a checkpoint is due: for all processes, if for any."""
        mine = stopping(), time.monotonic() - saved > schedule.checkpoint_seconds
        if fabric.world_size == 1:
            return mine
        any_: Any = fabric.all_reduce(torch.tensor(mine, device=fabric.device).int(), reduce_op="max")
        stop, late = any_.tolist()
        return bool(stop), bool(late)

    def write_line(loss: Any) -> None:
        nonlocal logged
        values = torch.stack([loss.total.detach(), *loss.terms.values()]).tolist()
        now = time.monotonic()
        rate = (at.step - logged[0]) * schedule.batch_size * fabric.world_size / max(now - logged[1], 1e-9)
        logged = (at.step, now)
        terms = dict(zip(loss.terms, values[1:], strict=True))
        line = {"step": at.step, "epoch": at.epoch, "loss": values[0], **{f"loss/{k}": v for k, v in terms.items()}}
        log.record(line | {"lr": optimizer.param_groups[0]["lr"], "images_per_second": rate, "time": now - clock})
        log.show(
            at.step,
            f"loss {values[0]:.2f}  " + "  ".join(f"{k} {v:.2f}" for k, v in terms.items()) + f"  {rate:.0f} img/s",
        )
        if not math.isfinite(values[0]):
            broken = [k for k, v in terms.items() if not math.isfinite(v)] or ["total"]
            raise TrainingStopped(
                f"the loss is not finite at step {at.step} ({', '.join(broken)}); "
                f"{run} keeps the last good checkpoint. Try a lower --lr, --clip 1, or --precision 32"
            )

    try:
        with torch.random.fork_rng(), _stop_signals() as stopping:
            wrapped.train()
            checkpoint()
            while at.step < total_steps:
                if bank and at.batch == 0:
                    _make_plan(method, bank, optimizer, at, log)
                order = at.plan.order if at.plan else None
                for batches in _chunks(loader.epoch(at.epoch, at.batch, order), schedule.accumulate):
                    set_rates(
                        optimizer, optimization, at.step, lr=schedule.lr, steps=stretched, warmup_steps=warmup_steps
                    )
                    # Drop-path and dropout draw from torch's generator: make it, too, a function of the step.
                    torch.manual_seed(derive(seed, "step", at.step, fabric.global_rank))
                    for k, batch in enumerate(batches):
                        at.skipped.update(batch.skipped)
                        batch = at.plan.with_targets(batch) if at.plan else batch
                        batch = appearance(batch, at.epoch, fabric.device)
                        with fabric.no_backward_sync(wrapped, enabled=k + 1 < len(batches)):
                            loss = wrapped(batch)
                            fabric.backward(loss.total / len(batches))
                    for parameter, step in frozen:
                        if at.step < step:
                            parameter.grad = None
                    if clip or optimization.clip_per_parameter:  # infinite: only undoes the scaling of fp16
                        fabric.clip_gradients(wrapped, optimizer_, max_norm=clip or math.inf, error_if_nonfinite=False)
                    if optimization.clip_per_parameter:
                        clip_per_parameter(method.parameters(), optimization.clip_per_parameter)
                    optimizer_.step()
                    optimizer_.zero_grad()
                    at.step, at.batch = at.step + 1, at.batch + len(batches)
                    if hasattr(method, "after_step"):
                        method.after_step(at.step / total_steps)
                    if at.step == 1:
                        check_buffers(method)
                    if at.step % schedule.log_steps == 0 or at.step in (1, total_steps):
                        write_line(loss)
                    # not at every step, since processes wait for each other to agree
                    ask = fabric.world_size == 1 or at.step % schedule.log_steps == 0
                    stop, late = sync_flags() if ask else (False, False)
                    if stop or at.step >= total_steps:
                        break
                    if late or (schedule.checkpoint_steps and at.step % schedule.checkpoint_steps == 0):
                        checkpoint()
                stop, late = sync_flags()
                if stop:
                    checkpoint()
                    raise Interrupted(
                        f"stopped at step {at.step} of {total_steps}; resume with: glocal pretrain --resume {run}"
                    )
                ended = at.step >= total_steps
                if at.batch >= steps_per_epoch * schedule.accumulate:
                    at.epoch, at.batch = at.epoch + 1, 0
                if monitor and (ended or (at.batch == 0 and at.epoch % schedule.monitor_every == 0)):
                    checkpoint()
                    _monitor(monitor, method, at, log, fabric, last=ended)
                    logged = (at.step, time.monotonic())
                elif ended or late:
                    checkpoint()
    finally:
        log.close()
        loader.close()
    return at


def _make_plan(method: Any, bank: PlainImages, optimizer: torch.optim.Optimizer, at: Position, log: RunLogger) -> None:
    """Let the method plan an epoch; the optimiser forgets what it knew of parameters that start anew."""
    bank.epoch, bank.plan = at.epoch, at.plan
    at.plan = method.before_epoch(bank)
    if numbers := at.plan.numbers(bank.plan):
        log.record({"step": at.step + 1, "epoch": at.epoch, **numbers})  # the first step it serves
    for name, parameter in method.named_parameters():
        if name.startswith(at.plan.renewed):
            optimizer.state.pop(parameter, None)


def _monitor(monitor: Monitor, method: Any, at: Position, log: RunLogger, fabric: Fabric, *, last: bool) -> None:
    """Look on the main process; where it says stop, all processes do, unless this is the end anyway."""
    numbers, stop = {}, None
    if fabric.is_global_zero:
        try:
            numbers = monitor(method.encoder, at.epoch)
        except TrainingStopped as stopped:
            stop = str(stopped)
    stop = fabric.broadcast(stop)
    if stop and not last:
        raise TrainingStopped(stop)
    log.record({"step": at.step, "epoch": at.epoch, **numbers})
    log.say(f"epoch {at.epoch}: " + "  ".join(f"{name} {value:.3g}" for name, value in numbers.items()))


def _chunks(batches: Iterator[Any], size: int) -> Iterator[list[Any]]:
    """Groups of `size`; a last incomplete one is dropped."""
    group = []
    for batch in batches:
        group.append(batch)
        if len(group) == size:
            yield group
            group = []


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn Ctrl-C and termination into a question the loop asks after each step; a second Ctrl-C stops at once."""
    asked = False

    def ask(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True

    names = (signal.SIGINT, signal.SIGTERM)
    try:
        previous = [signal.signal(name, ask) for name in names]
    except ValueError:  # not the main thread: signals are the caller's business
        yield lambda: False
        return
    try:
        yield lambda: asked
    finally:
        for name, handler in zip(names, previous, strict=True):
            signal.signal(name, handler)
