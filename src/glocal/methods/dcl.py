"""DCL and DCLW: decoupled contrastive learning (Yeh et al., ECCV 2022, arXiv:2110.06848)."""

from torch import Tensor

from glocal.backbones import Backbone
from glocal.losses import dcl, mises_fisher_weights
from glocal.methods.simclr import SimCLR


class DCL(SimCLR):
    """SimCLR without the positive in the softmax's denominator, which stalls learning where negatives are few and easy.

    Needs: SimCLR's views; any batch from 32. Choose it instead of SimCLR, above all at small batches. Expect, ResNet-50
    on ImageNet, 200 epochs at batch 256: 68.2% linear, 66.9% with SimCLR's own settings, where SimCLR has 61.8%.
    """

    title = "DCL"
    paper = "Yeh, Hong, Hsu, Liu, Chen, LeCun. Decoupled Contrastive Learning. ECCV 2022. arXiv:2110.06848"

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return dcl(z_a, z_b, self.temperature)


class DCLW(SimCLR):
    """DCL where a positive weighs the more, the further apart its two views still are.

    Needs: SimCLR's views; any batch from 32. Choose it where DCL is chosen; expect differences from it of a point or
    less. Gradients flow through the weights, as in the authors' code (lightly's stops them).

    Args:
        sigma: σ of the weights 2 − N·softmax(similarity/σ); the larger, the more equal they are.
    """

    title = "DCLW"
    paper = DCL.paper

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        projector: tuple[int, ...] = (2048, 128),
        temperature: float = 0.1,
        sigma: float = 0.5,
    ) -> None:
        super().__init__(backbone, image_size=image_size, scale=scale, projector=projector, temperature=temperature)
        self.sigma = sigma

    def contrast(self, z_a: Tensor, z_b: Tensor) -> Tensor:
        return dcl(z_a, z_b, self.temperature, mises_fisher_weights(z_a, z_b, self.sigma))
