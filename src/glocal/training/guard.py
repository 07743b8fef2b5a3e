"""The guard of a run that starts from weights: what it hands over is the best encoder it saw, the start included."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glocal.errors import UsageError
from glocal.evaluation.groups import PerImage, difference
from glocal.run import Run, write_atomically
from glocal.training.online_eval import Look
from glocal.training.stopping import Harmed

Monitor = Callable[[nn.Module, int], Look]
"""(encoder, epoch) -> what is seen of it; raises `Harmed` when going on makes no sense."""
PATIENCE = 2
"""Looks in a row below the start after which training ends."""


@dataclass
class Guard:
    """What a run remembers of its looks, in each of its checkpoints; the best encoder is a file beside them.

    A look is below the start where one of its scores is: the 95% interval of the difference, on the same images, by
    the bootstrap over them, lies below 0. It is better where none is below, one lies above 0, and the mean difference
    over the scores is larger than that of the best so far.

    Attributes:
        seed: of the bootstrap.
        start: score -> what each image adds to it (see `PerImage`): positions (N,), parts (N, S).
        best: step of the best encoder so far.
        gain: mean over the scores of what that has more than the start.
        below: looks below the start since the last that was not.
        collapsed: whether features were collapsed at the start and at each look since: not what training did.
        ended: why training ended before its time; "" where it did not.
    """

    seed: int
    start: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    best: int = 0
    gain: float = 0.0
    below: int = 0
    collapsed: bool = False
    ended: str = ""

    def judge(self, step: int, each: Mapping[str, PerImage]) -> dict[str, float]:
        """Judge the scores of a look, by name; gives what they are more than the start's, for the log."""
        if not self.start:
            self.start = {k: (torch.tensor(found.index), torch.tensor(found.parts)) for k, found in each.items()}
            return {}
        more: dict[str, float] = {}
        down: list[str] = []
        up = False
        for name, now in each.items():
            index, parts = (tensor.numpy() for tensor in self.start[name])
            more[name], (low, high) = difference(now, replace(now, index=index, parts=parts), seed=self.seed)
            up |= low > 0
            if high < 0:
                down.append(f"{name} {100 * more[name]:+.1f} points [{100 * low:+.1f}, {100 * high:+.1f}]")
        gain = float(np.mean(list(more.values())))
        if up and not down and gain > self.gain:
            self.best, self.gain = step, gain
        self.below = self.below + 1 if down else 0
        if self.below >= PATIENCE:
            self.ended = f"below the start at {PATIENCE} looks in a row ({'; '.join(down)})"
        return {f"gain_{name}": value for name, value in more.items()}


def examine(
    monitor: Monitor | None, guard: Guard | None, run: Run, encoder: nn.Module, epoch: int, step: int
) -> tuple[dict[str, float], str]:
    """Look at an encoder; a guard judges it, and the best is put beside the checkpoints.

    Returns:
        Numbers for the log, and why to stop; "" to go on.
    """
    try:
        look = monitor(encoder, epoch) if monitor else Look({})
    except Harmed as harmed:
        if guard:
            guard.ended = str(harmed)
        return {}, str(harmed)
    if guard is None:
        return look.numbers, ""
    guard.collapsed = bool(look.collapse) and (guard.collapsed or not guard.start)
    if look.collapse and not guard.collapsed:
        guard.ended = look.collapse
        return {}, guard.ended
    more = guard.judge(step, look.each)
    if guard.best == step:
        state = {"step": step, "encoder": encoder.state_dict()}
        write_atomically(run.best_file, lambda path: torch.save(state, path))
    return look.numbers | more, f"stopped at step {step}: {guard.ended}" if guard.ended else ""


def hand_over(run: Run, encoder: nn.Module) -> int:
    """Give an encoder the weights of the run's best one; says at which step that was."""
    try:
        state: dict[str, Any] = torch.load(run.best_file, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files fail in as many ways as there are readers
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UsageError(f"the best encoder of {run} cannot be read ({reason}); start the run again") from error
    encoder.load_state_dict(state["encoder"])
    return state["step"]
