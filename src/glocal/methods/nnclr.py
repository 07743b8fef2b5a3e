"""NNCLR: nearest neighbours as positives (Dwibedi et al., ICCV 2021, arXiv:2104.14548), with InfoNCE or DCL."""

from typing import ClassVar

from torch import nn

from glocal.backbones import Backbone
from glocal.heads import BatchNorm, SupportQueue, projector as build_projector
from glocal.losses import Loss, contrast, decoupled_contrast
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.views import Batch, simclr_views


class NNCLR(nn.Module):
    """The neighbour of one view in a queue of past embeddings is the positive of the other view of the image.

    Positives are thus other images of the same kind, which no augmentation would make. Needs: two views, a large batch
    (published at 4096) or `decoupled`, and a queue that holds several images of each kind. Choose it for classes that
    vary more than colour and crop do. Expect, ResNet-50 on ImageNet, 1000 epochs: 75.4% linear; with DCL, 400 epochs at
    batch 512: 72.3%.

    Args:
        projector: widths of the projector's layers, the last followed by BatchNorm.
        predictor: widths of the predictor's hidden layers.
        queue: number of embeddings in which neighbours are sought.
        temperature: τ of the softmax over cosine similarities.
        decoupled: leave the positive out of the softmax's denominator (NNCLR + DCL).
    """

    title = "NNCLR"
    paper = (
        "Dwibedi, Aytar, Tompson, Sermanet, Zisserman. With a Little Help from My Friends: Nearest-Neighbor Contrastive"
        " Learning of Visual Representations. ICCV 2021. arXiv:2104.14548"
    )
    native = True
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"queue": min(98_304, 32 * batch), "temperature": 0.2, "decoupled": True},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        projector: tuple[int, ...] = (2048, 2048, 256),
        predictor: tuple[int, ...] = (4096,),
        queue: int = 98_304,
        temperature: float = 0.1,
        decoupled: bool = False,
    ) -> None:
        super().__init__()
        width = projector[-1]
        self.encoder = backbone
        self.projector = nn.Sequential(build_projector((backbone.dim, *projector), norm="batch"), BatchNorm(width))
        self.predictor = build_projector((width, *predictor, width), norm="batch")
        self.queue = SupportQueue(queue, width)
        self.temperature, self.contrast = temperature, decoupled_contrast if decoupled else contrast
        self.recipe = simclr_views(image_size, scale)
        self.optimization = suited_to(backbone.norm, Optimization("lars", lr=0.3, weight_decay=1e-6, final_lr=0.0))

    def forward(self, batch: Batch) -> Loss:
        z_a, z_b = (self.projector(features.pooled) for features in encode(self.encoder, batch.views))
        p_a, p_b = self.predictor(z_a), self.predictor(z_b)
        near_a, near_b = self.queue.nearest_entry(z_a), self.queue.nearest_entry(z_b)
        self.queue.push(z_a)
        loss = self.contrast(near_a, p_b, self.temperature) + self.contrast(near_b, p_a, self.temperature)
        return Loss.of({"contrast": loss / 2})
