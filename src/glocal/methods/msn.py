"""MSN: masked siamese networks (Assran et al., ECCV 2022, arXiv:2204.07141)."""

import math
from dataclasses import replace
from typing import ClassVar

import torch
from torch import nn

from glocal.backbones import Backbone
from glocal.heads import projector as build_projector
from glocal.losses import Loss, mean_entropy
from glocal.losses.assignment import balanced_targets, cosine_scores
from glocal.losses.distillation import soft_cross_entropy
from glocal.methods.encode import check_drops, keep_random
from glocal.methods.published import Optimization, Preset
from glocal.methods.swav import embed_together
from glocal.methods.teacher import ema_copy, update_ema
from glocal.views import Batch, Crop, Recipe, blur_at

STRETCH = 1.25  # the schedules are those of a run this many times as long


class MSN(nn.Module):
    """A view with patches left out, and small ones, are assigned to the prototypes of a whole view of the same image.

    The whole view's assignment comes from a teacher, is sharpened and balanced; the mean of all predictions is kept
    spread out over the prototypes, which is what prevents collapse. Needs: a plain vision transformer, a second network
    in memory (without gradients), one large crop twice and ten small ones; any batch from 64, if there are not many
    more prototypes than images. Choose it where there are very few labels, and for large transformers, whose cost falls
    with every patch left out (`patch_drop` .7). Expect, ViT-B/4 on ImageNet: 72.4% with 5 images a class, 75.7%
    with 1% of the labels. Convolutional networks cannot leave out patches: `patch_drop=0` trains them on whole crops.

    Args:
        backbone: the encoder to train.
        image_size: side of the large crops, pixels.
        scale: area of a large crop as a fraction of its image, (least, most).
        patch_drop: share of the patches that the large anchor lacks, drawn anew for every batch.
        small_crops: number of small crops, which lack none.
        small_size: side of the small crops, pixels.
        small_scale: area of a small crop as a fraction of its image.
        projector: widths of the projector's layers.
        prototypes: K, number of prototypes.
        temperature: τ of the predictions.
        sharpening: T of the targets: their temperature is τ·T.
        rounds: of Sinkhorn normalisation of the targets.
        entropy_weight: of ln K − H(mean prediction).
        momentum: of the teacher at the start; it rises linearly towards 1.
    """

    title = "MSN"
    paper = "Assran et al. Masked Siamese Networks for Label-Efficient Learning. ECCV 2022. arXiv:2204.07141"
    pool = "native"
    teacher_momentum = "momentum"  # the option that a short run may lower
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {
            "projector": (512, 512, 128),
            "prototypes": min(1024, max(64, 2 * batch)),
            "small_crops": 2,
            "small_size": 48,
            "momentum": 0.99,
        },
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.3, 1.0),
        patch_drop: float = 0.15,
        small_crops: int = 10,
        small_size: int = 96,
        small_scale: tuple[float, float] = (0.05, 0.3),
        projector: tuple[int, ...] = (2048, 2048, 256),
        prototypes: int = 1024,
        temperature: float = 0.1,
        sharpening: float = 0.25,
        rounds: int = 3,
        entropy_weight: float = 1.0,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        check_drops(backbone, 1 - patch_drop, "patch_drop=0")
        self.encoder = backbone
        self.projector = build_projector((backbone.dim, *projector), norm="batch", activation=nn.GELU)
        self.prototypes = nn.Parameter(torch.empty(prototypes, projector[-1]).uniform_(-1, 1) * projector[-1] ** -0.5)
        self.teacher, self.teacher_projector = ema_copy(backbone), ema_copy(self.projector)
        self.patch_drop, self.temperature, self.sharpening = patch_drop, temperature, sharpening
        self.rounds, self.entropy_weight, self.momentum = rounds, entropy_weight, momentum
        large = Crop(image_size, scale, saturation=0.4, blur=0.5, sigma=blur_at(image_size))
        self.recipe = Recipe((large, large) + (large.but(size=small_size, scale=small_scale),) * small_crops)

    @property
    def optimization(self) -> Optimization:
        """AdamW with rising decay, all schedules ending at four fifths."""
        adamw = Optimization("adamw", lr=2.5e-4, weight_decay=0.04, final_weight_decay=0.4, warmup_epochs=15.0)
        return replace(adamw, clip=3.0, stretch=STRETCH, no_decay=("prototypes",))

    def forward(self, batch: Batch) -> Loss:
        target, anchor, *small = batch.views
        anchors = [keep_random(anchor, self.encoder.stride, 1 - self.patch_drop), *small]
        scores = cosine_scores(embed_together(self.encoder, self.projector, anchors), self.prototypes)  # (V, B, K)
        with torch.no_grad():
            z = embed_together(self.teacher, self.teacher_projector, [target])[0]
            sharp = self.temperature * self.sharpening
            targets = balanced_targets(cosine_scores(z, self.prototypes), sharp, self.rounds)
        spread = math.log(len(self.prototypes)) - mean_entropy((scores / self.temperature).softmax(dim=-1))
        return Loss.of(
            {
                "assignment": soft_cross_entropy(scores.transpose(0, 1), targets, self.temperature),
                "mean_entropy": self.entropy_weight * spread,
            }
        )

    def after_step(self, progress: float) -> None:
        momentum = self.momentum + (1 - self.momentum) * progress / STRETCH
        update_ema(self.teacher, self.encoder, momentum)
        update_ema(self.teacher_projector, self.projector, momentum)
