"""Teachers: exponential moving averages of a student, as in BYOL, DINO, MoCo-v3, MSN and LOCA."""

import copy
import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.losses.distillation import moved_center

M = TypeVar("M", bound=nn.Module)


def ema_copy(student: M) -> M:
    """A teacher that starts as its student: same weights, no gradient, no drop-path and no dropout.

    Register it in the method, so that checkpoints hold it. It is in train or eval mode like the student; in train mode
    its batch normalisations use the statistics of its own batch, as those of BYOL, DINO and MoCo-v3 do.
    """
    teacher = copy.deepcopy(student).requires_grad_(False)
    for module in teacher.modules():
        if isinstance(getattr(module, "drop_prob", None), float):  # timm's DropPath
            setattr(module, "drop_prob", 0.0)  # noqa: B010 (the checker knows no such attribute of modules)
        elif isinstance(module, nn.Dropout):
            module.p = 0.0
    return teacher


def teacher_of(method: nn.Module) -> Backbone | None:
    """The moving average of the encoder, where a method keeps one, as `teacher`: what DINO's and MSN's papers score."""
    teacher = getattr(method, "teacher", None)
    return teacher if isinstance(teacher, Backbone) else None


@torch.no_grad()
def update_ema(teacher: nn.Module, student: nn.Module, momentum: float) -> None:
    """Move every parameter of the teacher, an `ema_copy`: ξ ← m·ξ + (1 − m)·θ. With m = 1 it stays to the bit.

    Running statistics are not moved: the teacher has its own.
    """
    torch._foreach_lerp_(list(teacher.parameters()), list(student.parameters()), 1.0 - momentum)


def cosine(progress: float, start: float, end: float) -> float:
    """From `start` to `end` along half a cosine, as the run's progress goes from 0 to 1."""
    return end + (start - end) * 0.5 * (1 + math.cos(math.pi * progress))


class PredictorHeads(nn.Module):
    """The heads of BYOL and MoCo-v3: the student's projector and predictor, and the projector's teacher."""

    def __init__(self, projector: nn.Module, predictor: nn.Module) -> None:
        super().__init__()
        self.projector, self.predictor, self.teacher = projector, predictor, ema_copy(projector)

    def forward(self, x: Tensor) -> Tensor:
        """The student's predictions, (..., K)."""
        return self.predictor(self.projector(x))

    @torch.no_grad()
    def target(self, pooled: Tensor) -> Tensor:
        """The teacher's projections, (B, K)."""
        return self.teacher(pooled)

    def follow(self, momentum: float) -> None:
        """Move the teacher."""
        update_ema(self.teacher, self.projector, momentum)


class DistillationHeads(nn.Module):
    """The heads of DINO: the student's, its teacher, and the centre of the teacher's K logits.

    What the teacher `seen` has in this step moves the centre when it is over: the loss sees the centre of the batches
    before, and logits that two losses share count once.
    """

    center: Tensor

    def __init__(self, student: nn.Module, outputs: int, center_momentum: float = 0.9) -> None:
        super().__init__()
        self.student, self.teacher = student, ema_copy(student)
        self.register_buffer("center", torch.zeros(outputs))
        self.center_momentum = center_momentum
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        """The student's logits, (..., K)."""
        return self.student(x)

    @torch.no_grad()
    def target(self, pooled: Tensor) -> Tensor:
        """The teacher's logits, (B, K)."""
        return self.teacher(pooled)

    def follow(self, momentum: float) -> None:
        """Move the teacher and the centre."""
        update_ema(self.teacher, self.student, momentum)
        if self.seen:
            self.center.copy_(moved_center(self.center, self.seen, self.center_momentum))
            self.seen.clear()
