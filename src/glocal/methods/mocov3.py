"""MoCo-v3: momentum contrast without a queue (Chen, Xie, He, ICCV 2021, arXiv:2104.02057)."""

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.heads import BatchNorm, projector as build_projector
from glocal.losses.contrastive import contrast
from glocal.methods.byol import BYOL
from glocal.methods.published import Optimization, Preset
from glocal.methods.teacher import PredictorHeads


class MoCoV3(BYOL):
    """BYOL with contrast in place of regression: each prediction finds the teacher's key of its own image in the batch.

    Needs: two views, a second network in memory, and a large batch (published at 4096), whose other images are the
    negatives. Choose it to train vision transformers with two views. Expect, on ImageNet, linear: ResNet-50 100 / 300 /
    1000 epochs 68.9 / 72.8 / 74.6; ViT-S 300 epochs 73.2, ViT-B 76.7.

    Args:
        backbone: the encoder to train.
        image_size: side of the crops, pixels.
        scale: area of a crop as a fraction of its image, (least, most).
        projector: widths of the projector's layers, each followed by BatchNorm, the last without ReLU or gain.
        predictor: the same for the predictor (a ResNet's ends without BatchNorm).
        momentum: of the teacher at the start; it goes to 1 along a cosine.
        temperature: τ of the contrast.
        freeze_patches: keep a transformer's patch projection as it was initialised, which steadies training.
    """

    title = "MoCo-v3"
    paper = (
        "Chen, Xie, He. An Empirical Study of Training Self-Supervised Vision Transformers. ICCV 2021. arXiv:2104.02057"
    )
    term = "contrast"
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "paper-vit": lambda batch: {"scale": (0.08, 1.0), "projector": (4096, 4096, 256), "temperature": 0.2},
        "small": lambda batch: {"projector": (1024, 256), "predictor": (1024, 256), "temperature": 0.2},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.2, 1.0),
        projector: tuple[int, ...] = (4096, 256),
        predictor: tuple[int, ...] = (4096, 256),
        momentum: float = 0.99,
        temperature: float = 1.0,
        freeze_patches: bool = True,
    ) -> None:
        patches = getattr(backbone.model, "patch_embed", None)
        if freeze_patches and isinstance(patches, nn.Module):
            patches.requires_grad_(False)
        super().__init__(
            backbone, image_size=image_size, scale=scale, projector=projector, predictor=predictor, momentum=momentum
        )
        self.temperature = temperature

    @property
    def optimization(self) -> Optimization:
        """LARS for networks with BatchNorm (the 300-epoch recipe), AdamW for those with LayerNorm."""
        if self.encoder.norm == "batch":
            return Optimization("lars", lr=0.3, weight_decay=1e-6, final_lr=0.0)
        return Optimization("adamw", lr=1.5e-4, weight_decay=0.1, warmup_epochs=40, final_lr=0.0)

    def new_heads(self) -> PredictorHeads:
        projector = _mlp((self.encoder.dim, *self.projector), last_norm=True)
        predictor = _mlp((self.projector[-1], *self.predictor), last_norm=self.encoder.norm != "batch")
        return PredictorHeads(projector, predictor)

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        # 2τ as in the authors' code, and twice that because directions are averaged here and summed there
        queries = prediction if prediction.ndim == 2 else prediction.transpose(0, 1)
        return 4 * self.temperature * contrast(queries, target, self.temperature)


def _mlp(widths: Sequence[int], *, last_norm: bool) -> nn.Module:
    head = build_projector(widths, norm="batch")
    return head.append(BatchNorm(widths[-1], affine=False)) if last_norm else head
