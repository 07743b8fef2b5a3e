"""BYOL: bootstrap your own latent (Grill et al., NeurIPS 2020, arXiv:2006.07733)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.features import Features
from glocal.heads import projector as build_projector
from glocal.losses import Loss
from glocal.losses.distillation import negative_cosine
from glocal.methods.encode import encode
from glocal.methods.joint import cross_view
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.methods.teacher import PredictorHeads, cosine, ema_copy, update_ema
from glocal.views import Batch, two_views


class BYOL(nn.Module):
    """One view predicts what a slow moving average of the network says of the other.

    No negatives: the predictor, the stop-gradient and the teacher's slowness keep it from collapse. Needs: two views,
    a second network in memory; BatchNorm in its heads, hence a batch from 32 (published at 4096; little is lost down to
    256). Choose it for a global feature when the batch is small, and as the baseline of CO-BYOL. Expect, ResNet-50 on
    ImageNet, 1000 epochs: 74.3% linear; 300 epochs: 72.5%.

    The loss is −cos, averaged over the two directions: the published sum of two squared distances is 4 + 4 × it.

    Args:
        predictor: widths of the predictor's layers.
        momentum: of the teacher at the start; it goes to 1 along a cosine (published: .99 for 100 and 300 epochs, .996
            for 1000).
    """

    title = "BYOL"
    paper = (
        "Grill et al. Bootstrap your own latent: A new approach to self-supervised learning. NeurIPS 2020."
        " arXiv:2006.07733"
    )
    native = True
    teacher_momentum = "momentum"  # the option that a short run may lower
    term = "cosine"
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"projector": (1024, 256), "predictor": (1024, 256)},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        projector: tuple[int, ...] = (4096, 256),
        predictor: tuple[int, ...] = (4096, 256),
        momentum: float = 0.99,
    ) -> None:
        if tuple(projector[-1:]) != tuple(predictor[-1:]):
            raise UsageError(
                f"projector {tuple(projector)} and predictor {tuple(predictor)} end in different widths;"
                " a prediction is compared with a projection: give both the same last width"
            )
        super().__init__()
        self.encoder = backbone
        self.momentum, self.projector, self.predictor = momentum, projector, predictor
        self.heads = self.new_heads()
        self.teacher = ema_copy(backbone)
        self.recipe = two_views(image_size, scale)

    @property
    def optimization(self) -> Optimization:
        """LARS with the 300-epoch recipe (100 epochs: lr .45; 1000: .2, weight decay 1.5e-6); AdamW for LayerNorm.

        The published loss is 4 times ours. LARS takes that from a matrix's gradient, but not from its decay, and from
        parameters of one dimension not at all.
        """
        lars = Optimization("lars", lr=0.3, weight_decay=1e-6 / 4, final_lr=0.0, bias_lr_scale=4.0)
        return suited_to(self.encoder.norm, lars)

    def new_heads(self) -> PredictorHeads:
        projector = build_projector((self.encoder.dim, *self.projector), norm="batch")
        return PredictorHeads(projector, build_projector((self.projector[-1], *self.predictor), norm="batch"))

    def forward(self, batch: Batch) -> Loss:
        return self.objective(*self.represent(batch))

    def represent(self, batch: Batch) -> tuple[list[Features], list[Features]]:
        with torch.no_grad():
            teachers = encode(self.teacher, batch.views)
        return encode(self.encoder, batch.views), teachers

    def objective(self, students: list[Features], teachers: list[Features]) -> Loss:
        pooled = [f.pooled for f in students], [f.pooled for f in teachers]
        return Loss.of({self.term: cross_view(self, self.heads, *pooled)})

    def target(self, heads: PredictorHeads, pooled: list[Tensor]) -> list[Tensor]:
        return [heads.target(x) for x in pooled]

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return negative_cosine(prediction, target if prediction.ndim == 2 else target[:, None])

    def after_step(self, progress: float) -> None:
        update_ema(self.teacher, self.encoder, self.momentum_at(progress))
        self.heads.follow(self.momentum_at(progress))

    def momentum_at(self, progress: float) -> float:
        return cosine(progress, self.momentum, 1.0)
