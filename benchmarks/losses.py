"""Loss kernels, forward and backward, beside lightly's: time, peak memory, and whether values and gradients agree.

lightly's grid of locations differs from ours; both get the same one here, and ours fills its slots as lightly does, so
that both compute the same function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from lightly.loss import VICRegLLoss, VICRegLoss
from torch import Tensor

from benchmarks.measure import DEVICE, Size, compared, interleaved, peak_memory
from glocal.losses import vicreg_loss, vicregl_loss
from glocal.views.view import View


@dataclass(frozen=True)
class Case:
    """One point of the grid.

    Attributes:
        batch: B.
        cells: side of the square maps; 0 for VICReg, which has none.
        local: C, width of the maps.
        whole: D, width of the embeddings.
        views: V, the first two large; the maps of the others have half as many cells along a side.
        target: how many times faster than lightly we mean to be; None: not said.
    """

    batch: int
    cells: int
    local: int
    whole: int
    views: int = 2
    target: float | None = None


CASES = {
    "full": (
        Case(64, 7, 512, 8192, target=30),
        Case(32, 7, 512, 2048, target=6),
        Case(64, 14, 512, 2048, target=6),
        Case(256, 7, 512, 8192, target=6),
        Case(64, 0, 0, 8192),
        Case(256, 0, 0, 8192),
    ),
    "smoke": (Case(8, 4, 6, 12, target=6), Case(8, 4, 6, 12, views=3), Case(8, 0, 0, 12)),
}
MATCHES = (20, 4)


def measure(size: Size) -> dict[str, Any]:
    """Each case, Glocal and lightly in turn."""
    rounds = 3 if size == "full" else 2
    return {"matches": MATCHES, "cases": [measure_case(case, rounds) for case in CASES[size]]}


def measure_case(case: Case, rounds: int, least: float = 0.3) -> dict[str, Any]:
    """Time, memory and agreement of one case."""
    leaves, ours, theirs = build(case)
    arms = {"glocal": step(leaves, ours), "lightly": step(leaves, theirs)}
    times = interleaved(arms, rounds=rounds, least=least if rounds > 2 else 0.0)
    memory = {name: peak_memory(arm) for name, arm in arms.items()}
    return {
        **asdict(case),
        **compared(times, "glocal", "lightly"),
        "peak_bytes": memory,
        "times_less_memory": memory["lightly"] / memory["glocal"],
        # in float32 a near-tie falls differently in two ways of computing a distance, and other cells are matched
        "relative_difference": agreement(*build(case, torch.float64)),
    }


def build(
    case: Case, dtype: torch.dtype = torch.float32
) -> tuple[list[Tensor], Callable[[], Tensor], Callable[[], Tensor]]:
    """Random inputs of a case, and the two functions of them, each with its own call and nothing else."""
    generator = torch.Generator().manual_seed(0)
    shape = (case.views, case.batch, case.whole)
    # as embeddings are in training: a part that the views share, and one that they do not
    whole = torch.randn(shape[1:], generator=generator) + 0.5 * torch.randn(shape, generator=generator)
    embeddings = [z.to(DEVICE, dtype).requires_grad_() for z in whole]
    if not case.cells:
        criterion = VICRegLoss()
        return embeddings, lambda: vicreg_loss(*embeddings).total, lambda: criterion(*embeddings)
    sides = [case.cells if view < 2 else max(1, case.cells // 2) for view in range(case.views)]
    parts = [
        torch.randn(case.batch, side, side, case.local, generator=generator).to(DEVICE, dtype).requires_grad_()
        for side in sides
    ]
    maps = [part.permute(0, 3, 1, 2) for part in parts]  # channels last in memory, as projectors leave them
    grids = [crop_grid(case.batch, side, generator).to(DEVICE, dtype) for side in sides]
    matches = tuple(min(k, side * side) for k, side in zip(MATCHES, (sides[0], sides[-1]), strict=True))
    pairs = list(zip(embeddings, parts, strict=True))
    criterion = VICRegLLoss(alpha=0.75, num_matches=matches)

    def ours() -> Tensor:
        options: dict[str, Any] = {"alpha": 0.75, "matches": matches}
        return vicregl_loss(embeddings, maps, grids, **options, slot_order="distance", matches_by_crop_type=False).total

    def theirs() -> Tensor:
        return criterion(pairs[:2], grids[:2], pairs[2:], grids[2:]).squeeze()

    return embeddings + parts, ours, theirs


def crop_grid(batch: int, side: int, generator: torch.Generator) -> Tensor:
    """Source points (B, side, side, 2) of the cells of random crops of 500×375 photographs, half of them mirrored."""
    u = torch.rand(batch, 4, generator=generator)
    width, flip = 100 + 275 * u[:, 0], u[:, 1] < 0.5
    left, top = u[:, 2] * (500 - width), u[:, 3] * (375 - width)
    x = torch.stack([torch.where(flip, -width, width) / 224, 0 * width, torch.where(flip, left + width, left)], dim=1)
    y = torch.stack([0 * width, width / 224, top], dim=1)
    return View(torch.empty(batch, 3, 224, 224, device="meta"), torch.stack([x, y], dim=1)).centers(side, side)


def step(leaves: list[Tensor], loss: Callable[[], Tensor]) -> Callable[[], None]:
    """One forward and one backward; the gradients are dropped before, so that every call allocates them."""

    def forward_backward() -> None:
        for leaf in leaves:
            leaf.grad = None
        loss().backward()

    return forward_backward


def agreement(leaves: list[Tensor], ours: Callable[[], Tensor], theirs: Callable[[], Tensor]) -> dict[str, float]:
    """How far values and gradients are apart: |a − b| / |b|, and the largest ‖a − b‖ / ‖b‖ over inputs."""
    value, other = ours(), theirs()
    gradients = zip(torch.autograd.grad(value, leaves), torch.autograd.grad(other, leaves), strict=True)
    return {
        "value": float(((value - other) / other).abs().detach()),
        "gradient": max(float((a - b).norm() / b.norm()) for a, b in gradients),
    }
