"""SimCLR: a simple framework for contrastive learning (Chen et al., ICML 2020, arXiv:2002.05709)."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.heads import BatchNorm, projector as build_projector
from glocal.losses import Loss, info_nce
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.views import Batch, simclr_views


class SimCLR(nn.Module):
    """Each view finds the other view of its image among all other views of the batch.

    Needs: two strongly coloured views and many negatives, hence a large batch (published at 4096) or many epochs; no
    momentum encoder. Choose it as the reference of contrastive methods; at a batch of 256 and less DCL is the same with
    a better loss. Expect, ResNet-50 on ImageNet, 1000 epochs at batch 4096: 69.3% linear; 200 epochs at 256: 61.8%.

    Args:
        projector: widths of the projector's layers, each followed by BatchNorm.
        temperature: τ of the softmax over cosine similarities (published: .1 for long training of large batches; up to
            .5 for small ones).
    """

    title = "SimCLR"
    paper = (
        "Chen, Kornblith, Norouzi, Hinton. A Simple Framework for Contrastive Learning of Visual Representations."
        " ICML 2020. arXiv:2002.05709"
    )
    native = True
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"temperature": 0.2},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        projector: tuple[int, ...] = (2048, 128),
        temperature: float = 0.1,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        # BatchNorm after the last layer too, as in the authors' code
        self.projector = build_projector((backbone.dim, *projector), norm="batch").append(BatchNorm(projector[-1]))
        self.temperature = temperature
        self.recipe = simclr_views(image_size, scale)
        self.optimization = suited_to(backbone.norm, Optimization("lars", lr=0.3, weight_decay=1e-6, final_lr=0.0))

    def forward(self, batch: Batch) -> Loss:
        # both views share a forward pass, as in the authors' code
        features = encode(self.encoder, batch.views, group="size")
        z_a, z_b = self.projector(torch.cat([f.pooled for f in features])).chunk(2)
        return Loss.of({"contrast": self.contrast(z_a, z_b)})

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return info_nce(z_a, z_b, self.temperature)
