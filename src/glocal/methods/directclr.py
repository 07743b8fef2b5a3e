"""DirectCLR: contrast without a projector (Jing, Vincent, LeCun, Tian, ICLR 2022, arXiv:2110.09348)."""

from typing import ClassVar

from torch import nn

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.losses import Loss, contrast
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.views import Batch, two_views


class DirectCLR(nn.Module):
    """InfoNCE on the first channels of the backbone alone; the others learn through the layers they share with them.

    A projector keeps the backbone from the dimensional collapse that a contrastive loss brings about; so does leaving
    channels out of the loss. Needs: two views and a large batch (published at 4096); nothing beside the backbone.
    Choose it to study dimensional collapse, or where a head is unwanted. Expect, ResNet-50 on ImageNet, 100 epochs:
    62.7% linear (SimCLR with its projector 66.5%, with a linear one 61.1%, without 51.5%).

    Args:
        fraction: of the backbone's channels, those that enter the loss (published: 360 of 2048).
        temperature: τ of the softmax over cosine similarities.
    """

    title = "DirectCLR"
    paper = (
        "Jing, Vincent, LeCun, Tian. Understanding Dimensional Collapse in Contrastive Self-supervised Learning."
        " ICLR 2022. arXiv:2110.09348"
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
        fraction: float = 360 / 2048,
        temperature: float = 0.1,
    ) -> None:
        if not 0 < fraction <= 1:
            raise UsageError(f"fraction is {fraction}; it is that of the channels in the loss, above 0 and at most 1")
        super().__init__()
        self.encoder = backbone
        self.channels = max(1, round(fraction * backbone.dim))
        self.temperature = temperature
        self.recipe = two_views(image_size, scale)  # as in the authors' code, rather than SimCLR's
        self.optimization = suited_to(backbone.norm, Optimization("lars", lr=0.3, weight_decay=1e-6))

    def forward(self, batch: Batch) -> Loss:
        a, b = (features.pooled[:, : self.channels] for features in encode(self.encoder, batch.views))
        # between the two views only, as in the authors' code
        return Loss.of({"contrast": (contrast(a, b, self.temperature) + contrast(b, a, self.temperature)) / 2})
