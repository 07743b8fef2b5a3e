"""What a run says while it goes: a progress bar, metrics.jsonl and TensorBoard."""

import json
import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from glocal.run import Run, write_atomically


class RunLogger:
    """Writes on the main process (`active`) only; elsewhere every call does nothing.

    `step` is where a resumed run of `steps` stands; later lines of the interrupted one are dropped: they come again.
    """

    def __init__(self, run: Run, steps: int, step: int = 0, *, active: bool = True, quiet: bool = False) -> None:
        self.active = active
        if not active:
            return
        kept = [line for line in run.metrics() if line["step"] <= step]
        write_atomically(run.metrics_file, "".join(json.dumps(line) + "\n" for line in kept))
        self.file = open(run.metrics_file, "a", buffering=1)  # noqa: SIM115 (closed in `close`)
        from torch.utils.tensorboard import SummaryWriter

        self.tensorboard = SummaryWriter(str(run.tensorboard), purge_step=step + 1)
        self.console = Console(stderr=True, quiet=quiet)
        self.live = self.console.is_terminal and not quiet
        self.progress = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.completed}/{task.total}", table_column=Column(no_wrap=True)),
            TextColumn("eta", table_column=Column(no_wrap=True)),
            TimeRemainingColumn(table_column=Column(no_wrap=True)),
            # in a narrow terminal, this is what is cut
            TextColumn("{task.fields[note]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
            console=self.console,
            disable=not self.live,
            expand=True,
        )
        self.task = self.progress.add_task("training", total=steps, completed=step, note="")
        self.steps, self.spoken = steps, time.monotonic()
        self.progress.start()

    def record(self, line: dict[str, Any]) -> None:
        """Write one line of metrics (must hold "step")."""
        if not self.active:
            return
        self.file.write(json.dumps(line) + "\n")
        for name, value in line.items():
            if name != "step" and isinstance(value, int | float):
                self.tensorboard.add_scalar(name, value, line["step"])

    def losses(self, step: int, epoch: int, total: float, terms: dict[str, float], rates: dict[str, float]) -> None:
        """Write and show the loss of a step, its terms, and rates, "images_per_second" among them."""
        line = {"step": step, "epoch": epoch, "loss": total, **{f"loss/{k}": v for k, v in terms.items()}}
        self.record(line | rates)
        said = "  ".join(f"{name} {value:.2f}" for name, value in terms.items())
        self.show(step, f"loss {total:.2f}  {said}  {rates['images_per_second']:.0f} img/s")

    def look(self, step: int, epoch: int, numbers: dict[str, float]) -> None:
        """Write and print what a monitor saw."""
        self.record({"step": step, "epoch": epoch, **numbers})
        said = "  ".join(f"{name} {value:.3g}" for name, value in numbers.items())
        self.say(f"epoch {epoch}: {said}")

    def advance(self, step: int) -> None:
        """Move the bar."""
        if self.active:
            self.progress.update(self.task, completed=step)

    def show(self, step: int, note: str) -> None:
        """Say something beside the bar; where there is no terminal, print a line every half minute instead."""
        if not self.active:
            return
        self.progress.update(self.task, note=note)
        if not self.live and time.monotonic() - self.spoken > 30:
            self.spoken = time.monotonic()
            self.say(f"step {step}/{self.steps}  {note}")

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        if self.active:
            self.console.print(text, highlight=False, soft_wrap=True, markup=False)

    def close(self) -> None:
        """Flush and close."""
        if self.active:
            self.progress.stop()
            self.file.close()
            self.tensorboard.close()
            sys.stderr.flush()
