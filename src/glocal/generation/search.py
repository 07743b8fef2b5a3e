"""Searches for latents that cost least: by gradient, without one (nevergrad), at random.

All begin at the same standard normal starts, one search from each, side by side in one batch; an evaluation is one look
at one latent of each.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from glocal import random
from glocal.errors import UsageError

By = Literal["gradient", "cma", "oneplusone", "random"]
Cost = Callable[[Tensor], Tensor]
"""Latents (n, *shape) -> what each costs (n,), finite; differentiable where it is searched by gradient."""


class Best:
    """The best latents so far of n searches.

    Attributes:
        latents: (n, *shape), the starts before the first evaluation.
        costs: (n,) theirs, infinite at first.
        history: what `costs` was after each evaluation.
    """

    def __init__(self, starts: Tensor) -> None:
        self.latents, self.costs = starts.clone(), torch.full((len(starts),), torch.inf, device=starts.device)
        self.history: list[Tensor] = []

    def take(self, latents: Tensor, costs: Tensor) -> None:
        """Keep those that cost less."""
        better = costs < self.costs
        self.latents[better], self.costs = latents[better], torch.where(better, costs, self.costs)
        self.history.append(self.costs)


def starts(shape: tuple[int, ...], number: int, seed: int, *, device: Any = "cpu") -> Tensor:
    """Standard normal latents (number, *shape)."""
    return torch.randn((number, *shape), generator=_generator(seed, 0)).to(device)


def search(cost: Cost, at: Tensor, *, by: By, evaluations: int, seed: int = 0, lr: float = 1.0) -> Best:
    """The latents that cost least, of so many evaluations from each of the starts `at` (n, *shape).

    Args:
        cost: to be least.
        at: where to start.
        by: "gradient": Adam, whose rate is a tenth in the second third and a hundredth in the last, each of which
            begins at the best so far (what the authors' code of arXiv:1906.11661 means to do, and by a slip does not);
            "cma": covariance matrix adaptation, on long latents a diagonal one; "oneplusone": one descendant, kept
            where it is better, which needs comparisons only; "random": standard normal draws.
        evaluations: of each search.
        seed: of all that is drawn.
        lr: Adam's at the start.

    Raises:
        UsageError: if nevergrad is needed and not installed.
    """
    best = Best(at)
    if by == "gradient":
        _by_gradient(cost, best, evaluations, lr)
    elif by == "random":
        for step in range(evaluations):
            latents = at if step == 0 else starts(at.shape[1:], len(at), random.derive(seed, "draw", step)).to(at)
            with torch.no_grad():
                best.take(latents, cost(latents))
    else:
        _by_nevergrad(cost, best, evaluations, by, seed)
    return best


def _by_gradient(cost: Cost, best: Best, evaluations: int, lr: float) -> None:
    for third in range(3):
        z = best.latents.clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=lr * 0.1**third, betas=(0.0, 0.99))
        for _ in range(evaluations * third // 3, evaluations * (third + 1) // 3):
            costs = cost(z)
            best.take(z.detach(), costs.detach())
            (z.grad,) = torch.autograd.grad(costs.sum(), z)
            optimizer.step()


def _by_nevergrad(cost: Cost, best: Best, evaluations: int, by: str, seed: int) -> None:
    try:
        import nevergrad
    except ImportError as error:
        raise UsageError(f"--by {by} needs nevergrad: pip install 'glocal[inspire]', or take --by gradient") from error

    shape = best.latents.shape[1:]
    name = {"cma": "CMA" if shape.numel() <= 256 else "DiagonalCMA", "oneplusone": "OnePlusOne"}[by]
    optimizers: list[Any] = []
    for k, start in enumerate(best.latents.cpu().double().numpy()):
        array = nevergrad.p.Array(init=start)
        array.random_state.seed(random.derive(seed, by, k) % 2**32)
        optimizers.append(nevergrad.optimizers.registry[name](parametrization=array, budget=evaluations))
    for _ in range(evaluations):
        asked = [optimizer.ask() for optimizer in optimizers]
        latents = torch.stack([torch.from_numpy(each.value) for each in asked]).to(best.latents)
        with torch.no_grad():
            costs = cost(latents)
        best.take(latents, costs)
        for optimizer, each, found in zip(optimizers, asked, costs.tolist(), strict=True):
            optimizer.tell(each, found)


def _generator(seed: int, *keys: int) -> torch.Generator:
    return torch.Generator().manual_seed(random.derive(seed, "latents", *keys))
