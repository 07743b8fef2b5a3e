"""Methods that are compared with the registered ones: without a piece, with another one, or with labels."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.features import Features
from glocal.heads import projector
from glocal.losses import Loss, contrast
from glocal.methods import BYOL, LOCA, DeepCluster, DirectCLR, Optimization, encode, suited_to
from glocal.methods.published import Preset
from glocal.methods.teacher import PredictorHeads
from glocal.views import Batch, EpochPlan, PlainImages, Recipe, two_views


class NoPredictor(BYOL):
    """BYOL whose projection itself is the prediction."""

    def new_heads(self) -> PredictorHeads:
        return PredictorHeads(super().new_heads().projector, nn.Identity())


class SimSiam(BYOL):
    """BYOL without a teacher: the target is the student's own projection behind a stop-gradient."""

    def represent(self, batch: Batch) -> tuple[list[Features], list[Features]]:
        features = encode(self.encoder, batch.views)
        return features, features

    def target(self, heads: Any, pooled: list[Tensor]) -> list[Tensor]:
        return [heads.projector(x).detach() for x in pooled]

    def after_step(self, progress: float) -> None:
        pass


class NoStopGradient(SimSiam):
    """The same, but the target moves towards the prediction too."""

    def target(self, heads: Any, pooled: list[Tensor]) -> list[Tensor]:
        return [heads.projector(x) for x in pooled]


class PlainOrder(DeepCluster):
    """DeepCluster that serves every image once an epoch."""

    def before_epoch(self, bank: PlainImages) -> EpochPlan:
        return replace(super().before_epoch(bank), order=None)


class Projected(DirectCLR):
    """DirectCLR's loss behind a projector: SimCLR between the two views."""

    title = "SimCLR with a projector"

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        widths: tuple[int, ...] = (128,),
        temperature: float = 0.1,
    ) -> None:
        super().__init__(backbone, image_size=image_size, scale=scale, fraction=1.0, temperature=temperature)
        self.projector = projector((backbone.dim, *widths), norm=backbone.norm)

    def forward(self, batch: Batch) -> Loss:
        a, b = (self.projector(features.pooled) for features in encode(self.encoder, batch.views))
        return Loss.of({"contrast": (contrast(a, b, self.temperature) + contrast(b, a, self.temperature)) / 2})


class PositionsOnly(LOCA):
    """LOCA that learns where a patch lies, and nothing from clusters."""

    silent = "head"

    def forward(self, batch: Batch) -> Loss:
        hook = getattr(self, self.silent).register_forward_hook(lambda module, inputs, output: output.detach())
        try:
            return super().forward(batch)
        finally:
            hook.remove()


class ClustersOnly(PositionsOnly):
    """LOCA that learns the cluster of a patch, and nothing from where it lies."""

    silent = "where"


class Supervised(nn.Module):
    """Cross-entropy with the labels, on one crop: what features without labels are compared with."""

    title = "Supervised"
    paper = ""
    pool = "native"
    presets: ClassVar[dict[str, Preset]] = {"paper": lambda batch: {}, "small": lambda batch: {}}

    def __init__(
        self, backbone: Backbone, *, image_size: int = 224, scale: tuple[float, float] = (0.14, 1.0), classes: int = 10
    ) -> None:
        super().__init__()
        self.encoder, self.top = backbone, nn.Linear(backbone.dim, classes)
        self.recipe = Recipe(two_views(image_size, scale).views[:1])

    @property
    def optimization(self) -> Optimization:
        return suited_to(self.encoder.norm, Optimization("lars", lr=0.3, weight_decay=1e-6))

    def forward(self, batch: Batch) -> Loss:
        assert batch.label is not None
        return Loss.of({"classes": F.cross_entropy(self.top(self.encoder(batch.views[0].pixels).pooled), batch.label)})
