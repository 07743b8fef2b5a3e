"""DeepCluster-v2: DeepCluster brought up to date by the authors of SwAV (Caron et al., NeurIPS 2020, appendix)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from glocal.backbones import Backbone
from glocal.clustering import kmeans
from glocal.distributed import rank, world_size
from glocal.heads import projector as build_projector
from glocal.heads.clusters import Prototypes
from glocal.heads.memory import Memory
from glocal.losses import Loss
from glocal.methods.bank import bank_features, for_all
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.methods.swav import embed_together, swav_views
from glocal.random import derive
from glocal.views import Batch, EpochPlan, PlainImages


class DeepClusterV2(nn.Module):
    """Each crop predicts in which clusters its image was, by the embeddings of the epoch before; several clusterings.

    The centroids of spherical k-means are the prototypes: the classifier is never trained, hence stays comparable from
    epoch to epoch. No pass over the images for clustering: the embeddings are remembered from training. Needs: two
    large crops and, for its best, six small ones; 1 KB an image of memory; several epochs, each too few to forget
    (SwAV, which needs no epochs, for very large collections). Choose it for a global feature from a convolutional
    network at small batches. Expect, ResNet-50 on ImageNet, linear, multi-crop: 75.2% (800 epochs),
    74.3% (400 epochs, crops of 2×160 + 4×96).

    Args:
        prototypes: K, clusters in each clustering.
        clusterings: how many, of either large crop in turn.
        temperature: τ of the predictions.
        iterations: of k-means.
    """

    prototypes: Any

    title = "DeepCluster-v2"
    paper = (
        "Caron, Misra, Mairal, Goyal, Bojanowski, Joulin. Unsupervised Learning of Visual Features by Contrasting"
        " Cluster Assignments. NeurIPS 2020. arXiv:2006.09882"
    )
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"projector": (512, 128), "prototypes": min(3000, 4 * batch), "small_crops": 0},
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
        prototypes: int = 3000,
        clusterings: int = 3,
        temperature: float = 0.1,
        iterations: int = 10,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        self.projector = build_projector((backbone.dim, *projector), norm="batch")
        self.clusters = prototypes
        self.prototypes = nn.ModuleList(Prototypes(projector[-1], prototypes) for _ in range(clusterings))
        self.prototypes.requires_grad_(False)
        self.memory = Memory(2, projector[-1])
        self.temperature, self.iterations = temperature, iterations
        self.recipe = swav_views(image_size, small_crops, small_size, scale, small_scale)
        self.optimization = suited_to(backbone.norm, Optimization("lars", lr=0.3, weight_decay=1e-6))

    def before_epoch(self, bank: PlainImages) -> EpochPlan:
        if self.memory.embeddings.shape[1] != len(bank):  # nothing was seen yet
            ids, z = bank_features(self, bank, lambda pixels: self.projector(self.encoder(pixels).pooled))
            self.memory.start(ids, F.normalize(z.float(), dim=1), len(bank))
        mine = torch.arange(len(bank), device=self.memory.embeddings.device)[rank() :: world_size()]
        targets = []
        for number, prototypes in enumerate(self.prototypes):
            x = self.memory.embeddings[number % 2, mine]
            seed = derive(bank.seed, "k-means", bank.epoch, number)
            clusters = kmeans(x, self.clusters, iterations=self.iterations, seed=seed, spherical=True)
            prototypes.weight.data.copy_(clusters.centroids)
            targets.append(for_all(mine, clusters.assignment, len(bank)))
        return EpochPlan(targets=torch.stack(targets))

    def forward(self, batch: Batch) -> Loss:
        assert batch.target is not None
        z = embed_together(self.encoder, self.projector, batch.views)
        self.memory.push(batch.index, z[:2].detach())
        losses = []
        for prototypes, target in zip(self.prototypes, batch.target.T, strict=True):
            logits = prototypes(z).flatten(0, 1) / self.temperature
            losses.append(F.cross_entropy(logits, target.repeat(len(z))))
        return Loss.of({"clusters": torch.stack(losses).mean()})
