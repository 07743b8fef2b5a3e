"""VICReg: variance-invariance-covariance regularisation (Bardes, Ponce, LeCun, ICLR 2022, arXiv:2105.04906)."""

from typing import ClassVar

from torch import nn

from glocal.backbones import Backbone
from glocal.heads import projector as build_projector
from glocal.losses import Loss, vicreg_loss
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, suited_to, width_for
from glocal.views import Batch, two_views


class VICReg(nn.Module):
    """Two views are pulled together; each embedding dimension is kept spread out, and pairs of dimensions uncorrelated.

    Needs: two views and any batch from 32 (published at 2048; unlike contrastive losses it loses little at 256); no
    negatives, no momentum encoder, no labels. Choose it for a global feature from a convolutional encoder, and as the
    baseline of VICRegL. Expect, ResNet-50 on ImageNet, 1000 epochs: 73.2% linear.

    Args:
        projector: widths of the expander's layers.
        invariance_weight: λ, weight of the mean squared difference between the views.
        variance_weight: μ, weight of the hinge that keeps each dimension's standard deviation at 1.
        covariance_weight: ν, weight of the squared off-diagonal covariances, summed over the two views.
        entropy_weight: weight of the embeddings' Gaussian entropy, which the variance and covariance terms approximate
            ("LogDet", Shwartz-Ziv et al. 2023, arXiv:2303.00633); 0 for VICReg itself. To use it alone, set
            variance_weight and covariance_weight to 0.
    """

    title = "VICReg"
    paper = "Bardes, Ponce, LeCun. VICReg: Variance-Invariance-Covariance Regularization. ICLR 2022. arXiv:2105.04906"
    native = True
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"projector": (width_for(batch),) * 3},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        projector: tuple[int, ...] = (8192, 8192, 8192),
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        entropy_weight: float = 0.0,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = build_projector((backbone.dim, *projector), norm=backbone.norm)
        self.weights = {
            "invariance_weight": invariance_weight,
            "variance_weight": variance_weight,
            "covariance_weight": covariance_weight,
            "entropy_weight": entropy_weight,
        }
        self.recipe = two_views(image_size, scale)
        self.optimization = suited_to(backbone.norm, Optimization("lars", lr=0.2, weight_decay=1e-6))

    def forward(self, batch: Batch) -> Loss:
        z_a, z_b = (self.projector(features.pooled) for features in encode(self.encoder, batch.views))
        return vicreg_loss(z_a, z_b, **self.weights)
