"""SwAV: swapped prediction of cluster assignments, and multi-crop (Caron et al., NeurIPS 2020, arXiv:2006.09882)."""

from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.distributed import rank, world_size
from glocal.heads import SupportQueue, projector as build_projector
from glocal.heads.clusters import Prototypes
from glocal.losses import Loss, sinkhorn
from glocal.losses.distillation import dino_loss
from glocal.losses.loss import upcast, without_autocast
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.views import Batch, Recipe, View, simclr_views


class SwAV(nn.Module):
    """Each crop predicts to which prototypes the large crops belong, in a batch shared equally among all prototypes.

    The equal shares (Sinkhorn) are what prevents collapse. Needs: two large crops and, for its best, six small ones, at
    half the cost of two more large ones; no second network, no negatives; in long runs a batch of many times fewer
    images than prototypes is made up for by a queue of past embeddings. Choose it for a global feature from a
    convolutional network at little cost. Expect, ResNet-50 on ImageNet, linear: 72.1 / 73.9 / 74.6 / 75.3% at 100 / 200
    / 400 / 800 epochs; 70.1% without small crops (400 epochs); 72.7% at batch 256 (200 epochs).

    A loss that stays at ln K says that codes are alike for all images: lower `epsilon`, or keep the prototypes still
    for longer.

    Args:
        projector_norm: normalisation in the projector.
        prototypes: K, number of prototypes.
        temperature: τ of the predictions.
        epsilon: ε of the codes; the smaller, the harder they are.
        rounds: of Sinkhorn normalisation.
        queue: past embeddings of each large crop that help to balance the codes; 0 for none.
        queue_from: part of the run after which the queue is used.
        frozen_epochs: epochs in which the prototypes do not move (at most a tenth of the run).
    """

    queues: Any
    use_queue: Tensor

    title = "SwAV"
    paper = (
        "Caron, Misra, Mairal, Goyal, Bojanowski, Joulin. Unsupervised Learning of Visual Features by Contrasting"
        " Cluster Assignments. NeurIPS 2020. arXiv:2006.09882"
    )
    native = True
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {"queue": 3840} if batch <= 512 else {},
        "small": lambda batch: {
            "projector": (512, 128),
            "prototypes": min(3000, max(100, 4 * batch)),
            "epsilon": 0.02,  # at .05 the codes of untrained features say nearly nothing for thousands of steps
            "small_crops": 0,
        },
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.14, 1.0),
        small_crops: int = 6,
        small_size: int = 96,
        small_scale: tuple[float, float] = (0.05, 0.14),
        projector: tuple[int, ...] = (2048, 128),
        projector_norm: Literal["batch", "layer", "none"] = "batch",
        prototypes: int = 3000,
        temperature: float = 0.1,
        epsilon: float = 0.05,
        rounds: int = 3,
        queue: int = 0,
        queue_from: float = 0.075,
        frozen_epochs: float = 1.0,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = build_projector((backbone.dim, *projector), norm=projector_norm)
        self.prototypes = Prototypes(projector[-1], prototypes)
        self.queues = nn.ModuleList(SupportQueue(queue, projector[-1]) for _ in range(2 if queue else 0))
        self.queue_in_use = queue_from == 0
        self.register_buffer("use_queue", torch.tensor(self.queue_in_use))  # the same, for checkpoints
        self.temperature, self.epsilon, self.rounds = temperature, epsilon, rounds
        self.queue_from, self.frozen_epochs = queue_from, frozen_epochs
        self.recipe = swav_views(image_size, small_crops, small_size, scale, small_scale)
        # The authors' LARC adapts the rates of biases and norms too, which LARS, here, leaves as they are.
        lr, warmup = (0.6, 0.0) if queue else (0.3, 10.0)  # of the paper's small batches, and of its large ones
        frozen = {"prototypes": frozen_epochs}
        lars = Optimization("lars", lr=lr, weight_decay=1e-6, warmup_epochs=warmup, frozen=frozen)
        self.optimization = suited_to(backbone.norm, lars)

    def forward(self, batch: Batch) -> Loss:
        z = embed_together(self.encoder, self.projector, batch.views)
        scores = self.prototypes(z)
        codes = [self.codes(i, z[i].detach(), scores[i].detach()) for i in (0, 1)]
        # Each view predicts the codes of the other views: the pairs of DINO, with codes for a teacher.
        return Loss.of({"swapped_prediction": dino_loss(scores.unbind(), codes, self.temperature)})

    def codes(self, view: int, z: Tensor, scores: Tensor) -> Tensor:
        """Balanced codes (B, K) of a large crop's embeddings (B, D), among those of the queue."""
        past = scores[:0]
        if self.queues:
            if self.queue_in_use:  # of which each process takes its share
                with without_autocast(z):  # like the scores
                    past = self.queues[view].embeddings[rank() :: world_size()] @ self.prototypes.weight.detach().mT
            self.queues[view].push(z)
        return sinkhorn(torch.cat([past, scores]), self.epsilon, self.rounds)[len(past) :]

    def after_step(self, progress: float) -> None:
        self.queue_in_use = progress >= self.queue_from
        self.use_queue.fill_(self.queue_in_use)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.queue_in_use = bool(state_dict.get(prefix + "use_queue", self.queue_in_use))
        super()._load_from_state_dict(state_dict, prefix, *args)


def swav_views(
    large: int, n_small: int, small: int, large_scale: tuple[float, float], small_scale: tuple[float, float]
) -> Recipe:
    """Two large crops and `n_small` small ones, all with the appearance of SimCLR's (Caron et al. 2020, appendix A)."""
    crop = simclr_views(large, large_scale).views[0]
    return Recipe((crop, crop) + (crop.but(size=small, scale=small_scale),) * n_small)


def embed_together(encoder: Backbone, projector: nn.Module, views: list[View]) -> Tensor:
    """Unit embeddings, (V, B, D): crops of one size share a pass of the encoder, all share one of the projector."""
    pooled = torch.cat([features.pooled for features in encode(encoder, views, group="size")])
    return F.normalize(upcast(projector(pooled)), dim=-1).unflatten(0, (len(views), -1))
