"""Many linear classifiers trained at once on the same features: one matrix product serves the whole grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor


@dataclass
class Standardise:
    """(x − mean) / √(var + 1e-5) with the training set's statistics: a batch norm without affine in evaluation mode."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Self:
        """Statistics of the rows of x (N, D)."""
        return cls(x.mean(0), (x.var(0, correction=0) + 1e-5).sqrt())

    def to(self, device: torch.device) -> Self:
        """The same for features on a device."""
        return type(self)(self.mean.to(device), self.std.to(device))

    def __call__(self, x: Tensor) -> Tensor:
        """x (N, D), standardised."""
        return (x - self.mean) / self.std


class Probes:
    """G linear classifiers of D features into K classes, and their SGD with momentum .9 and cosine decay.

    Starts at zero: softmax regression is convex, so a random start gains nothing. Weight decay spares the bias.

    Args:
        settings: G pairs (learning rate, weight decay).
        dim: D.
        classes: K.
        device: of the `weight` (D, G, K) and the `bias` (G, K).
    """

    def __init__(
        self, settings: Sequence[tuple[float, float]], dim: int, classes: int, device: torch.device | str = "cpu"
    ) -> None:
        self.settings, self.classes = settings, classes
        self.weight = torch.zeros(dim, len(settings), classes, device=device)
        self.bias = torch.zeros(len(settings), classes, device=device)
        self._lr, self._wd = torch.tensor(settings, dtype=torch.float32, device=device).T.unsqueeze(-1)
        self._moving_weight, self._moving_bias = torch.zeros_like(self.weight), torch.zeros_like(self.bias)

    def logits(self, x: Tensor) -> Tensor:
        """(B, G, K) for features x (B, D)."""
        return (x @ self.weight.flatten(1)).unflatten(1, self.bias.shape) + self.bias

    def finite(self) -> Tensor:
        """(G,) bool, False for the classifiers that diverged."""
        return self.weight.isfinite().all(2).all(0)

    def learn(self, x: Tensor, targets: Tensor, progress: float) -> None:
        """One SGD step of all classifiers on the cross-entropy of one batch.

        Args:
            x: (B, D) features.
            targets: (B, K) class probabilities.
            progress: position in training, 0 to 1, for the cosine.
        """
        error = (_softmax(self.logits(x)) - targets[:, None]) / len(x)  # the gradient with respect to the logits
        lr = self._lr * (0.5 * (1 + math.cos(math.pi * progress)))
        # in place: the weights of all settings are large, and each pass over them counts
        self._moving_weight.flatten(1).addmm_(x.T, error.flatten(1), beta=0.9).view_as(self.weight).addcmul_(
            self._wd, self.weight
        )
        self._moving_bias.mul_(0.9).add_(error.sum(0))
        self.weight.addcmul_(lr, self._moving_weight, value=-1)
        self.bias.addcmul_(lr, self._moving_bias, value=-1)


def _softmax(logits: Tensor) -> Tensor:
    """Softmax over the last dimension whose least value is e⁻⁶⁰: of the subnormal numbers that confident classifiers
    would get, processors make several times slower products."""
    shares = (logits - logits.amax(-1, keepdim=True)).clamp_min_(-60).exp_()
    return shares.div_(shares.sum(-1, keepdim=True))


def best(scores: Tensor, finite: Tensor, losses: Tensor | None = None) -> int:
    """The setting (of G) with the highest score; ties go to the lowest loss, else to the first; diverged ones lose."""
    scores = torch.where(finite, scores.nan_to_num(-1.0), -torch.inf)
    losses = torch.zeros_like(scores) if losses is None else losses.nan_to_num(torch.inf)
    return int(torch.where(scores == scores.max(), losses, torch.inf).argmin())
