"""The training loop."""

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch

from glocal.backbones.weights import read_checkpoint
from glocal.distributed import each_says, on_first
from glocal.fabric import Fabric
from glocal.methods import Optimization, check_loss, drawn_patch
from glocal.random import derive
from glocal.run import Run
from glocal.training.buffers import check_buffers
from glocal.training.checkpoint import Position, all_finite, begun_under, restore, restore_method, save_checkpoint
from glocal.training.guard import Guard, Monitor, examine, hand_over
from glocal.training.logger import RunLogger
from glocal.training.optimizers import build_optimizer, clip_per_parameter, frozen_until, idle_parameters, set_rates
from glocal.training.schedule import Schedule
from glocal.training.stopping import Agreement, Harmed, Interrupted, TrainingStopped, stop_signals
from glocal.views import Appearance, Batch, Loader, PlainImages, ViewLoader

DIED = 1000
"""In place of a signal's number: a process has lost a loader worker."""
CURE = "keeps the last good checkpoint. Try a lower --lr, --clip 1, or --precision 32"


def fit(
    fabric: Fabric,
    method: Any,
    loader: Loader,
    appearance: Callable[[Batch, int, torch.device], Batch],
    run: Run,
    *,
    optimization: Optimization,
    schedule: Schedule,
    seed: int,
    resume: bool = False,
    monitor: Monitor | None = None,
    guard: bool = False,
    changed: bool = False,
    quiet: bool = False,
) -> Position:
    """Train `method` on the views of `loader`, keeping the run directory such that a stop at any moment loses little.

    Args:
        fabric: launched; says devices, processes and precision.
        method: see `glocal.methods`.
        loader: batches of `schedule.batch_size / schedule.accumulate` images of this process.
        appearance: (batch, epoch, device) -> the batch there, finished: `glocal.views.Appearance` for images.
        run: where to keep checkpoints and metrics.
        optimization: optimiser and schedule shape.
        schedule: lengths and sizes.
        seed: of everything drawn during training.
        resume: continue from the run's checkpoint, if it has one.
        monitor: called on the main process every few epochs; give all processes one, since the others wait for it.
        guard: leave the best encoder that the monitor saw, the start included, in `method`, see `Guard`.
        changed: the images are no longer those of the checkpoint: what a method planned for its epoch is planned anew.
        quiet: print nothing.

    Returns:
        Where training ended; with a guard, its `step` is that of the encoder.

    Raises:
        TrainingStopped: with a diagnosis; `Interrupted` on Ctrl-C.
    """
    settings = optimization, schedule, seed, resume, monitor, guard, changed, quiet
    training = _Training(fabric, method, loader, appearance, run, *settings)
    try:
        with torch.random.fork_rng([fabric.device] * (fabric.device.type == "cuda")), stop_signals() as stopping:
            training.stopping = stopping
            training.run_to_the_end()
    except Harmed as harmed:
        if not guard or training.at.step == 0:
            raise
        training.log.say(str(harmed))
    finally:
        training.log.close()
        loader.close()
    return replace(training.at, step=on_first(lambda: hand_over(run, method.encoder))) if guard else training.at


@dataclass
class _Training:
    """What `fit` works with: the position and the pieces of one step, one epoch and one run."""

    fabric: Fabric
    method: Any
    loader: Loader
    appearance: Callable[[Batch, int, torch.device], Batch]
    run: Run
    optimization: Optimization
    schedule: Schedule
    seed: int
    resume: bool
    monitor: Monitor | None
    guard: bool
    changed: bool
    quiet: bool

    def __post_init__(self) -> None:
        fabric, method, loader, run = self.fabric, self.method, self.loader, self.run
        optimization, schedule = self.optimization, self.schedule
        self.stopping: Callable[[], int] = lambda: 0
        self.streams = getattr(loader, "streams", False)
        self.agree, self.stop, self.late, self.died = Agreement(fabric.world_size), 0, 0, ""
        self.steps_per_epoch = loader.steps_per_epoch // schedule.accumulate
        self.total_steps = min(schedule.epochs * self.steps_per_epoch, schedule.max_steps or 10**18)
        state = on_first(lambda: read_checkpoint(run, set_aside=True) if self.resume and run.has_checkpoint else None)
        if state:
            self.optimization = optimization = begun_under(state, optimization, self.total_steps)
            restore_method(run, state, method)
        self.stretched = round(self.total_steps * optimization.stretch)
        self.warmup_steps = self._first_epochs(optimization.warmup_epochs)
        starts = {name: self._first_epochs(epochs) for name, epochs in optimization.frozen.items()}
        self.frozen, self.clip = frozen_until(method, starts), schedule.clip or optimization.clip
        method.to(device=fabric.device, memory_format=torch.channels_last)
        self.optimizer = build_optimizer(method, optimization, schedule.lr)
        self.at = restore(run, state, self.optimizer, fabric.strategy.precision) if state else Position()
        if self.changed and self.at.plan:
            self.at.plan, self.at.batch = None, 0
        if self.guard and self.at.guard is None:
            self.at.guard = Guard(self.seed)
        for name in (idle := idle_parameters(method)):  # after the optimiser, since older checkpoints hold them
            method.get_parameter(name).requires_grad_(False)
        self.wrapped, self.wrapped_optimizer = fabric.setup(method, self.optimizer)
        self.images: PlainImages | None = None
        if hasattr(method, "before_epoch"):
            assert isinstance(loader, ViewLoader), "methods with before_epoch look at images"
            assert isinstance(self.appearance, Appearance)
            place: Any = {"rank": fabric.global_rank, "world_size": fabric.world_size, "device": fabric.device}
            self.images = PlainImages(loader, method.recipe.views[0].size, self.appearance, **place)
        self.log = RunLogger(run, self.total_steps, self.at.step, active=fabric.is_global_zero, quiet=self.quiet)
        if idle:
            self.log.say(f"frozen, since no feature depends on them: {', '.join(idle)}")
        self.saved = now = time.monotonic()
        self.started, self.logged = now - self.at.seconds, (self.at.step, now)

    def _first_epochs(self, epochs: float) -> int:
        """Steps of that many first epochs, at most a share of the run."""
        return int(min(epochs * self.steps_per_epoch, self.total_steps * self.optimization.early))

    def run_to_the_end(self) -> None:
        """All epochs that are left."""
        self.wrapped.train()
        if self.at.guard and not self.at.guard.start:
            self.look(last=False)
        self.checkpoint()
        ended = self.at.step >= self.total_steps or bool(self.at.guard and self.at.guard.ended)
        while not ended:
            ended = self.train_epoch()
            if self.stop and not ended:
                self.checkpoint()
                if self.stop == DIED:
                    raise TrainingStopped(self.saved_at(f"a loader worker died ({self.died or 'of another process'})"))
                raise Interrupted(self.saved_at("stopped"), self.stop)
            if self.at.batch >= self.steps_per_epoch * self.schedule.accumulate:
                self.at.epoch, self.at.batch = self.at.epoch + 1, 0
            if self.monitor and (ended or (self.at.batch == 0 and self.at.epoch % self.schedule.monitor_every == 0)):
                self.look(last=ended)
            elif ended or self.late:
                self.checkpoint()

    def saved_at(self, what: str) -> str:
        """What happened, where the run stands, and how to go on."""
        return f"{what} at step {self.at.step} of {self.total_steps}, saved; resume with: {self.run.resume_command}"

    def train_epoch(self) -> bool:
        """What is left of the epoch under way, or less where somebody asks to stop; whether the run has ended."""
        if self.images and self.at.batch == 0:
            self.plan_epoch(self.images)
        schedule, at = self.schedule, self.at
        for batches in self.batches(at.plan.order if at.plan else None):
            loss = self.step(batches)
            self.log.advance(at.step)
            if at.step % schedule.log_steps == 0 or at.step in (1, self.total_steps):
                self.write_line(loss)
            self.sync_flags()
            ended = at.step >= self.total_steps
            if self.monitor and self.streams and at.step % max(100, self.total_steps // 20) == 0 and not ended:
                self.look(last=False)
            elif not ended and (self.late or (schedule.checkpoint_steps and at.step % schedule.checkpoint_steps == 0)):
                self.checkpoint()
            if self.stop or ended:
                return ended
        if ended := at.batch < self.steps_per_epoch * schedule.accumulate:
            if at.step == 0:
                raise TrainingStopped("the stream has not as many images as a batch")
            images = at.step * schedule.batch_size * self.fabric.world_size
            self.log.say(f"the stream ended after {images:,} images, at step {at.step} of {self.total_steps}")
        return ended

    def batches(self, order: torch.Tensor | None) -> Iterator[list[Any]]:
        """The micro-batches of each step; where the loader fails, what was learnt is saved first."""
        at, group = self.at, []
        try:
            for batch in self.loader.epoch(at.epoch, at.batch, order):
                group.append(batch)
                if len(group) == self.schedule.accumulate:
                    if self.streams and self.agree(0, wait=True)[0]:
                        return
                    yield group
                    group = []
            if self.streams:
                self.agree(1, wait=True)
        except (RuntimeError, EOFError, ConnectionError) as error:  # the last two: it died while it handed a batch over
            if isinstance(error, RuntimeError) and "DataLoader worker" not in str(error):
                raise
            again, self.died = bool(self.died), (str(error) or "it said nothing more").splitlines()[0]
            if self.fabric.world_size == 1:
                self.checkpoint()
                raise TrainingStopped(self.saved_at(f"a loader worker died ({self.died})")) from error
            if again:  # without a step in between that all could save
                resume = f"go on from the last checkpoint: {self.run.resume_command}"
                raise TrainingStopped(f"loader workers died twice ({self.died}); {resume}") from error
            self.loader.close()  # the others are in this step already: take it, with new workers, then stop together
            yield from self.batches(order)

    def step(self, batches: list[Any]) -> Any:
        """One step of the optimiser on the gradients of all micro-batches; gives the last one's loss."""
        at, fabric = self.at, self.fabric
        lengths = {"steps": self.stretched, "warmup_steps": self.warmup_steps}
        set_rates(self.optimizer, self.optimization, at.step, lr=self.schedule.lr, **lengths)
        # Drop-path and dropout draw from torch's generator: make it, too, a function of the step.
        torch.manual_seed(derive(self.seed, "step", at.step, fabric.global_rank))
        for k, batch in enumerate(batches):
            at.skipped.update(batch.skipped)
            at.passed, at.shrunk = batch.passed, at.shrunk + batch.shrunk
            batch = at.plan.with_targets(batch) if at.plan else batch
            batch = self.appearance(batch, at.epoch, fabric.device)
            patch = drawn_patch(self.method, self.schedule.patches, self.seed, at.step)
            with patch, fabric.no_backward_sync(self.wrapped, enabled=k + 1 < len(batches)):
                loss = check_loss(self.wrapped(batch), self.method)
                fabric.backward(loss.total / len(batches))
        self.limit_gradients()
        self.wrapped_optimizer.step()
        self.wrapped_optimizer.zero_grad()
        at.step, at.batch = at.step + 1, at.batch + len(batches)
        if hasattr(self.method, "after_step"):
            self.method.after_step(at.step / self.total_steps)
        if at.step == 1:
            check_buffers(self.method)
        return loss

    def limit_gradients(self) -> None:
        """Drop those of parameters that do not move yet; clip the others."""
        for parameter, start in self.frozen:
            if self.at.step < start:
                parameter.grad = None
        each, most = self.optimization.clip_per_parameter, self.clip or math.inf
        if self.clip or each:  # infinite: only undoes the scaling of fp16
            self.fabric.clip_gradients(self.wrapped, self.wrapped_optimizer, max_norm=most, error_if_nonfinite=False)
        if each:
            clip_per_parameter(self.method.parameters(), each)

    def checkpoint(self) -> None:
        """Save all, unless the weights are lost: the last good checkpoint then stays."""
        self.at.seconds, self.saved, self.late = time.monotonic() - self.started, time.monotonic(), 0
        if not all_finite(self.method):
            raise Harmed(f"the weights are no longer finite at step {self.at.step}; {self.run} {CURE}")
        check_buffers(self.method)
        self.at.skipped = {image: why for skipped in each_says(self.at.skipped) for image, why in skipped.items()}
        state = self.optimization, self.optimizer, self.fabric.strategy.precision, self.at
        on_first(lambda: save_checkpoint(self.run, self.method, *state))

    def sync_flags(self) -> None:
        """Whether to stop, and whether a checkpoint is due: for all processes, if for any."""
        late = time.monotonic() - self.saved > self.schedule.checkpoint_seconds
        self.stop, self.late = self.agree(DIED if self.died else self.stopping(), int(late))

    def write_line(self, loss: Any) -> None:
        """A line of metrics, and the end where the loss is no number."""
        at, now = self.at, time.monotonic()
        total, *values = torch.stack([loss.total.detach(), *loss.terms.values()]).tolist()
        terms = dict(zip(loss.terms, values, strict=True))
        images = (at.step - self.logged[0]) * self.schedule.batch_size * self.fabric.world_size
        rates = {"lr": self.optimizer.param_groups[0]["lr"]}
        rates |= {"images_per_second": images / max(now - self.logged[1], 1e-9), "time": now - self.started}
        self.logged = at.step, now
        self.log.losses(at.step, at.epoch, total, terms, rates)
        if not math.isfinite(total):
            broken = [name for name, value in terms.items() if not math.isfinite(value)] or ["total"]
            raise Harmed(f"the loss is not finite at step {at.step} ({', '.join(broken)}); {self.run} {CURE}")

    def plan_epoch(self, images: PlainImages) -> None:
        """Let the method plan an epoch; the optimiser forgets what it knew of parameters that start anew."""
        at = self.at
        images.epoch, images.plan = at.epoch, at.plan
        with self.fabric.autocast():
            at.plan = self.method.before_epoch(images)
        if numbers := at.plan.numbers(images.plan):
            self.log.record({"step": at.step + 1, "epoch": at.epoch, **numbers})  # the first step it serves
        for name, parameter in self.method.named_parameters():
            if name.startswith(at.plan.renewed):
                self.optimizer.state.pop(parameter, None)

    def look(self, *, last: bool) -> None:
        """Ask the monitor on the main process; where it or the guard says stop, all do, unless this is the end anyway.

        What a guard saw is in the checkpoint of this step: a run resumed from one before looks again.
        """
        at, guard = self.at, self.at.guard
        if not guard:
            self.checkpoint()
        numbers, stop = on_first(lambda: examine(self.monitor, guard, self.run, self.method.encoder, at.epoch, at.step))
        if guard:
            self.checkpoint()
        if stop and not last:
            raise Harmed(stop)
        self.log.look(at.step, at.epoch, numbers)
        self.logged = at.step, time.monotonic()
