"""CO-VICReg: the idea of CO-SSL for a method without a teacher (see `co`)."""

from torch import Tensor, nn

from glocal.features import Features
from glocal.heads import projector as build_projector
from glocal.losses import Loss, vicreg_loss
from glocal.methods.co import co
from glocal.methods.encode import encode
from glocal.methods.vicreg import VICReg
from glocal.views import Batch


class JointVICReg(VICReg):
    """VICReg as a `JointEmbedding` without a teacher: a target is the other view's embedding behind a stop-gradient.

    Inferred, not published. The local loss is VICReg's own, terms and weights, with statistics over the batch for each
    cell (as VICRegL's are for each slot): attraction alone would collapse the local head.
    """

    @property
    def heads(self) -> nn.Module:
        return self.projector

    def new_heads(self) -> nn.Module:
        widths = [layer.out_features for layer in self.projector if isinstance(layer, nn.Linear)]
        return build_projector((self.encoder.dim, *widths), norm=self.encoder.norm)

    def represent(self, batch: Batch) -> tuple[list[Features], list[Features]]:
        features = encode(self.encoder, batch.views)
        return features, features

    def objective(self, students: list[Features], teachers: list[Features]) -> Loss:
        z_a, z_b = (self.projector(f.pooled) for f in students)
        return vicreg_loss(z_a, z_b, **self.weights)

    def target(self, heads: nn.Module, pooled: list[Tensor]) -> list[Tensor]:
        # not under no_grad: autocast would keep the weights it casts there, and the predictions would give no gradient
        return [heads(x).detach() for x in pooled]

    def compare(self, prediction: Tensor, target: Tensor) -> Tensor:
        return vicreg_loss(prediction, target, **self.weights).total


COVICReg = co(JointVICReg)
COVICReg.paper = (
    "Not published: ours, of VICReg, after the CO-SSL of Aubret, Teulière, Triesch (arXiv:2501.02860)."
    f" VICReg: {VICReg.paper}"
)
