"""CO-SSL: the parts see the whole (Aubret, Teulière, Triesch 2025, arXiv:2501.02860), for any joint embedding.

From the paper: L = L_g + w_s·L_l. L_g is the method's own loss. In L_l every local representation of one view, through
local heads of their own (1×1 convolutions), predicts the *other* view's global target, which the teacher makes from its
pooled map through the teacher of the local head; mean over the n² cells, and both directions. w_s between .2 and .5 is
good. The paper gives this for BYOL and reports CO-DINO and CO-MoCoV3. Inferred here: what it is for a method that is
not BYOL, small crops, and methods without a teacher (see docs/co_ssl.md).
"""

import inspect
from typing import Any

import torch
from torch import Tensor

from glocal.errors import UsageError
from glocal.losses import Loss
from glocal.methods.byol import BYOL
from glocal.methods.dino import DINO
from glocal.methods.joint import cross_view
from glocal.methods.mocov3 import MoCoV3
from glocal.random import derive
from glocal.views import Batch

_DOCUMENT = """Each cell of one view predicts the target of the whole other view, beside the loss of {title} itself.

    {title} + local_weight · the same comparison between cells and wholes: every part learns what it is a part of. Needs
    what {title} needs, and a feature map of some cells. Choose it over {title} for accuracy at few epochs and for
    robustness to noise, occlusion and small attacks. Expect nothing by numbers: the 71.5% published for CO-BYOL on
    ImageNet, 100 epochs, are of an RF-ResNet-50 that only its authors have; `co_resnet50_rf99` is our reading of it.

    Args:
        local_weight: w_s, weight of the local loss (published: .2 to .5); with 0 this is {title}, pooled by the mean.
        separate_heads: give the cells heads of their own, or those of the whole.
        cells: cells drawn from each map for the local loss; None for all.
"""


def co(base: Any) -> Any:
    """The CO- variant of a `JointEmbedding`: a class with its options and three more."""

    class CO(base):
        title = f"CO-{base.title}"
        paper = (
            "Aubret, Teulière, Triesch. Seeing the Whole in the Parts in Self-Supervised Representation Learning. 2025."
            f" arXiv:2501.02860; {base.paper}"
        )
        pool = "mean"
        native = False

        def __init__(
            self,
            backbone: Any,
            *,
            local_weight: float = 0.5,
            separate_heads: bool = True,
            cells: int | None = None,
            **options: Any,
        ) -> None:
            if local_weight < 0 or (cells is not None and cells < 1):
                raise UsageError(f"local_weight {local_weight}, cells {cells}: give a weight of at least 0, and a cell")
            super().__init__(backbone, **options)
            self.local_weight, self.cells = local_weight, cells
            self.separate_heads = separate_heads and local_weight > 0
            if self.separate_heads:  # last, and from a stream of their own: the rest is initialised as without them
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(derive(torch.initial_seed(), "local heads"))
                    self.local_heads = self.new_heads()

        def forward(self, batch: Batch) -> Loss:
            students, teachers = self.represent(batch)
            loss = self.objective(students, teachers)
            if self.local_weight == 0:
                return loss
            heads = self.local_heads if self.separate_heads else self.heads
            cells = [self.drawn(f.tokens) for f in students]
            local = self.local_weight * cross_view(self, heads, cells, [f.pooled for f in teachers])
            return Loss(loss.total + local, {**loss.terms, "local": local.detach()})

        def drawn(self, tokens: Tensor) -> Tensor:
            """(B, N, D) -> `cells` of the N locations of each image, without replacement."""
            if self.cells is None or self.cells >= tokens.shape[1]:
                return tokens
            order = torch.rand(tokens.shape[:2], device=tokens.device).argsort(dim=1)[:, : self.cells]
            return tokens.gather(1, order[..., None].expand(-1, -1, tokens.shape[2]))

        def after_step(self, progress: float) -> None:
            if hasattr(super(), "after_step"):
                super().after_step(progress)
                if self.separate_heads:
                    self.local_heads.follow(self.momentum_at(progress))

    ours, theirs = (inspect.signature(cls.__init__).parameters for cls in (CO, base))
    own = [ours[name] for name in ("local_weight", "separate_heads", "cells")]
    CO.__signature__ = inspect.Signature([p for p in theirs.values() if p.name != "self"] + own)
    CO.__doc__ = _DOCUMENT.format(title=base.title)
    CO.__name__ = CO.__qualname__ = "CO" + base.title.replace("-v", "V")
    return CO


COBYOL, CODINO, COMoCoV3 = co(BYOL), co(DINO), co(MoCoV3)
