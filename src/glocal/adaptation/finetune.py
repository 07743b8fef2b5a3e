"""An encoder and its head as a method: what `training.fit` trains, like any other."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glocal.adaptation.layers import Train, choose_layers
from glocal.backbones import Backbone
from glocal.distributed import all_sum, world_size
from glocal.evaluation.incremental import distillation
from glocal.evaluation.segment import looks_of
from glocal.features import Features
from glocal.heads.neighbour_fusion import FUSION_RATE
from glocal.losses import Loss
from glocal.methods import Optimization
from glocal.views import Batch, Crop, Recipe

HEAD_RATE = 10.0
"""The head begins from nothing: how much faster than the encoder it learns."""


class Previous(nn.Module):
    """What was said before by a head that knew fewer classes; it stays as it is.

    Args:
        head: that head.
        encoder: the encoder that it had, where that trains on; None: it still has it.
    """

    def __init__(self, head: nn.Module, encoder: nn.Module | None) -> None:
        super().__init__()
        self.head, self.encoder = head, encoder
        self.requires_grad_(False)

    def train(self, mode: bool = True) -> "Previous":
        """Evaluation mode."""
        return super().train(False)

    def forward(self, pixels: Tensor, features: Features, index: Tensor) -> Tensor:
        """Logits of the classes known before (B, K), of training images `index` (B, n) whose features are now these."""
        return _said(self.head, features if self.encoder is None else self.encoder(pixels), index)


def _said(head: nn.Module, features: Features, index: Tensor) -> Tensor:
    """Logits of training images; a head that looks at some of these is not to see those that it is asked about."""
    return head(features, index) if hasattr(head, "remember") else head(features)


class FineTuning(nn.Module):
    """Learns answers: a head on an encoder, of which some, all or nothing trains.

    The head learns alone in the first tenth of the run, lest its first errors spoil the features (Kumar et al. 2022,
    arXiv 2202.10054). What is frozen is in evaluation mode; where not all of the encoder trains, so are all of its
    statistics.

    Args:
        encoder: changed in place.
        head: see `glocal.adaptation.Head`.
        image_size: side of the crops, pixels.
        train: what of the encoder trains.
        layer_decay: factor on the learning rate of each layer of the encoder against that of the layer above it.
        mixup: alpha of mix-up (Zhang et al. 2018, arXiv 1710.09412); 0 for none.
        weights: (K,) of each class in the loss, of mean 1 over the answers; None: 1.
        weight_decay: of AdamW.
        previous: keep to what it says of its classes, the first ones of the head (distillation; Li and Hoiem 2016,
            arXiv 1606.09282).
    """

    weights: Tensor | None

    def __init__(
        self,
        encoder: Backbone,
        head: Any,
        *,
        image_size: int,
        train: Train = "all",
        layer_decay: float = 1.0,
        mixup: float = 0.0,
        weights: np.ndarray | None = None,
        weight_decay: float = 0.05,
        previous: Previous | None = None,
    ) -> None:
        super().__init__()
        choose_layers(encoder, train)
        self.encoder, self.head, self.trains, self.mixup = encoder, head, train, mixup
        self.previous = previous
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights).float())
        mild: Any = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.0, "gray": 0.0}
        self.recipe = Recipe((Crop(image_size, scale=head.scale, flip=getattr(head, "flip", 0.5), **mild),))
        still = {"encoder.": 1e9}  # epochs; the loop allows a tenth of the run
        self.optimization = Optimization(
            "adamw",
            lr=1e-4,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            lr_of={"head.": HEAD_RATE, "head.model.fusion.": HEAD_RATE * FUSION_RATE},
            frozen=still,
        )

    def train(self, mode: bool = True) -> "FineTuning":
        """Training mode; the statistics of an encoder that does not train as a whole stay."""
        super().train(mode)
        self.encoder.train(mode and self.trains == "all")
        return self

    def after_step(self, progress: float) -> None:
        """Tell the head, where it asks, how far the run is, 0 to 1."""
        if hasattr(self.head, "after_step"):
            self.head.after_step(progress)

    def forward(self, batch: Batch) -> Loss:
        """The mean loss of all answers in the batches of all processes."""
        pixels, target, index = batch.views[0].pixels, batch.extra["target"], batch.index[:, None]
        targets = [(1.0, target)]
        if self.mixup:
            share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
            order = torch.randperm(len(pixels)).to(pixels.device)
            pixels, index = pixels.lerp(pixels[order], 1 - share), torch.cat([index, index[order]], 1)
            targets = [(share, target), (1 - share, target[order])]
        features: Features = self.encoder(pixels)
        logits = _said(self.head, features, index)
        looks = places(self.encoder, features, pixels.shape[-1])
        each = [part * self.loss(logits, answers, looks) for part, answers in targets]
        terms = {"cross_entropy": torch.stack(each).sum() if self.mixup else each[0]}
        if self.previous is not None:
            terms["before"] = distillation(logits.float(), self.previous(pixels, features, index).float()).mean()
        return Loss.of(terms)

    def loss(self, logits: Tensor, target: Tensor, looks: Any) -> Tensor:
        """Mean loss, each answer as heavy as its class."""
        each, classes = self.head.losses(logits, target, looks)
        weighted = each if self.weights is None else each * self.weights[classes]
        count = all_sum(each.new_tensor(float(len(each)))) / world_size()
        return weighted.sum() / count.clamp_min(1)


def places(encoder: Any, features: Features, side: int) -> Any:
    """Where columns and rows of the map look, as fractions of the square's side; None without a grid."""
    return None if features.grid is None else looks_of(encoder.cells(*features.grid), side)


def never_seen(classes: list[str], amounts: np.ndarray) -> list[str]:
    """A sentence where there are classes without an image to learn from, as with few `--labels`."""
    lacking = [name for name, amount in zip(classes, amounts, strict=True) if not amount]
    if not lacking:
        return []
    those = ", ".join(f"'{name}'" for name in lacking[:3]) + ", …" * (len(lacking) > 3)
    return [f"{len(lacking):,} of {len(classes):,} classes have no image to learn from ({those})"]


def class_weights(amounts: np.ndarray) -> np.ndarray:
    """Weights (K,) that make all classes count alike, of mean 1 over the answers: total / (K·amount)."""
    there = amounts > 0
    return np.where(there, amounts.sum() / (there.sum() * np.where(there, amounts, 1)), 0.0)
