"""An encoder and its head as a method: what `training.fit` trains, like any other."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from glocal.adaptation.layers import Train, choose_layers
from glocal.backbones import Backbone
from glocal.distributed import all_sum, world_size
from glocal.evaluation.segment import looks_of
from glocal.features import Features
from glocal.losses import Loss
from glocal.methods import Optimization
from glocal.views import Batch, Crop, Recipe

HEAD_RATE = 10.0
"""The head begins from nothing: how much faster than the encoder it learns."""


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
    ) -> None:
        super().__init__()
        choose_layers(encoder, train)
        self.encoder, self.head, self.trains, self.mixup = encoder, head, train, mixup
        self.register_buffer("weights", None if weights is None else torch.from_numpy(weights).float())
        mild: Any = {"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 0.0, "gray": 0.0}
        self.recipe = Recipe((Crop(image_size, scale=head.scale, **mild),))
        still = {"encoder.": 1e9}  # epochs; the loop allows a tenth of the run
        self.optimization = Optimization(
            "adamw",
            lr=1e-4,
            weight_decay=weight_decay,
            layer_decay=layer_decay,
            lr_of={"head.": HEAD_RATE},
            frozen=still,
        )

    def train(self, mode: bool = True) -> "FineTuning":
        """Training mode; the statistics of an encoder that does not train as a whole stay."""
        super().train(mode)
        self.encoder.train(mode and self.trains == "all")
        return self

    def forward(self, batch: Batch) -> Loss:
        """The mean loss of all answers in the batches of all processes."""
        pixels, target = batch.views[0].pixels, batch.extra["target"]
        if not self.mixup:
            logits, looks = self.logits(pixels)
            return Loss.of({self.head.main: self.loss(logits, target, looks)})
        share = float(torch.distributions.Beta(self.mixup, self.mixup).sample())
        order = torch.randperm(len(pixels)).to(pixels.device)
        logits, looks = self.logits(pixels.lerp(pixels[order], 1 - share))
        first, second = (self.loss(logits, each, looks) for each in (target, target[order]))
        return Loss.of({self.head.main: share * first + (1 - share) * second})

    def logits(self, pixels: Tensor) -> tuple[Tensor, Any]:
        """Logits of images, and where the cells of the map look (see `looks_of` of segmentation)."""
        features: Features = self.encoder(pixels)
        return self.head(features), places(self.encoder, features, pixels.shape[-1])

    def loss(self, logits: Tensor, target: Tensor, looks: Any) -> Tensor:
        """Mean loss, each answer as heavy as its class."""
        each, classes = self.head.losses(logits, target, looks)
        weighted = each if self.weights is None else each * self.weights[classes]
        count = all_sum(each.new_tensor(float(len(each)))) / world_size()
        return weighted.sum() / count.clamp_min(1)


def places(encoder: Any, features: Features, side: int) -> Any:
    """Where columns and rows of the map look, as fractions of the square's side; None without a grid."""
    return None if features.grid is None else looks_of(encoder.cells(*features.grid), side)


def class_weights(amounts: np.ndarray) -> np.ndarray:
    """Weights (K,) that make all classes count alike, of mean 1 over the answers: total / (K·amount)."""
    there = amounts > 0
    return np.where(there, amounts.sum() / (there.sum() * np.where(there, amounts, 1)), 0.0)
