"""Without a projector features collapse, unless some channels stay out of the loss (Jing et al., ICLR 2022).

Claim: a contrastive loss on all of the backbone's channels makes its features span few dimensions; DirectCLR, the same
loss on some of the channels, keeps the others alive, and is better than a linear projector. Published, ResNet-50 on
ImageNet, 100 epochs, linear: no projector 51.5, linear projector 61.1, DirectCLR 62.7, a projector of two layers 66.5.

Protocol, written before it was run. Pretrain a ResNet of 8 convolutions (replications/thin_resnet.py, 64 px; 256
channels, of which DirectCLR's loss sees 45, the published share; linear projector 256-128, nonlinear 256-256-128) on
the training images of clothing + pets + camvid together (3,735) for 400 steps of 64 images. Loss (InfoNCE between the
two views, τ .1), views and optimiser (LARS at the rates glocal decides for short runs) are the same for all arms.
Evaluate the last step on clothing, test split: kNN, linear, and the effective rank of the backbone's features (RankMe
over the test images). Three seeds, differences paired by seed; about 2 processor minutes an arm and seed.

Verdict rule. Each difference below is "reproduced" if its 95% interval lies above 0, "not reproduced" if below 0, else
"undecided"; the claim is reproduced if all are, and not reproduced if one is not.

    python -m replications.directclr --data DIR      # DIR/{clothing,pets,camvid}
    python -m replications.directclr --table         # from what is kept
"""

from __future__ import annotations

import sys
from typing import Any

from glocal.backbones import Backbone
from glocal.heads import projector
from glocal.losses import Loss, contrast
from glocal.methods import DirectCLR, encode
from glocal.views import Batch
from replications.protocol import Arm, Claim, Score, claims_table, replicate


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


NAME = "directclr"
SETS = ("clothing", "pets", "camvid")
COMMON: dict[str, Any] = {
    "backbone": "replications.thin_resnet:thin_rf195",
    "image_size": 64,
    "batch_size": 64,
    "max_steps": 400,
    "temperature": 0.1,
}
ARMS = [
    Arm("random"),
    Arm("none", {"method": "directclr", "fraction": 1.0}),
    Arm("linear", {"method": "replications.directclr:Projected", "widths": (128,)}),
    Arm("nonlinear", {"method": "replications.directclr:Projected", "widths": (256, 128)}),
    Arm("directclr", {"method": "directclr", "fraction": 360 / 2048}),
]
SCORES = {
    "knn": Score("clothing kNN", "clothing", "knn"),
    "linear": Score("clothing linear", "clothing", "linear"),
    "rank": Score("rank of the features", "clothing", "rank", "rank_pooled"),
}
CLAIMS = (
    Claim("directclr", "none", "rank"),
    Claim("directclr", "none", "linear"),
    Claim("directclr", "linear", "linear"),
)


def table() -> str:
    """Markdown: scores by arm, paired differences, verdict."""
    return claims_table(sys.modules[__name__])


if __name__ == "__main__":
    replicate(sys.modules[__name__])
