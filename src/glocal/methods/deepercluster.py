"""DeeperCluster: clusters of clusters, and rotations (Caron et al., ICCV 2019, arXiv:1905.01278)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.clustering import balanced_order, hierarchical_kmeans, whiten
from glocal.errors import UsageError
from glocal.heads.clusters import TopLayers
from glocal.losses import Loss
from glocal.methods.bank import FullyConnected, bank_features, crops_only, for_all
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.random import derive
from glocal.views import Batch, EpochPlan, PlainImages


class DeeperCluster(nn.Module):
    """Images are turned by 0, 90, 180 or 270°; their super-cluster with the turn is learnt, and their cluster in it.

    Two levels of k-means make very many clusters affordable, and rotation keeps features from depending on what the
    clusters happen to be: made for large uncurated collections. Needs: one view, and every few epochs a pass over all
    images; a backbone with Sobel input (`sobel_vgg16_bn`), since colour is a short cut. Choose it where `deepcluster`
    would need more clusters than one classifier can hold. Expect, VGG-16 on 96 million Flickr images: 45.6% linear on
    ImageNet, against 48.4% for DeepCluster pretrained on ImageNet itself; fine-tuned, the better of the two.

    With one cluster and one super-cluster it is RotNet (Gidaris et al. 2018); without turns, DeepCluster.

    Args:
        clusters: number of clusters in all, over the super-clusters.
        super_clusters: m.
        rotate: turn images in training.
        components: principal components that are clustered.
        iterations: of k-means.
        every: epochs from one clustering to the next.
        hidden: widths of fully connected layers on the map, trained with it; none for `()`. By default 4096, 4096 for
            AlexNets and VGGs, whose fully connected output the paper clusters, and none for others.
    """

    title = "DeeperCluster"
    paper = (
        "Caron, Bojanowski, Mairal, Joulin. Unsupervised Pre-Training of Image Features on Non-Curated Data. ICCV 2019."
        " arXiv:1905.01278"
    )
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"clusters": 4 * max(1, min(80_000, batch // 2)), "components": 64},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        clusters: int = 320_000,
        super_clusters: int = 4,
        rotate: bool = True,
        components: int = 4096,
        iterations: int = 10,
        every: int = 3,
        hidden: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        self.hidden = FullyConnected(backbone, image_size, hidden)
        self.parts, self.clusters, self.turns = super_clusters, clusters // super_clusters, 4 if rotate else 1
        self.super = TopLayers(self.hidden.dim, 1, self.parts * self.turns)
        self.sub = TopLayers(self.hidden.dim, self.parts * self.turns, self.clusters)
        self.components, self.iterations, self.every = components, iterations, every
        self.recipe = crops_only(image_size, scale)
        # a constant rate, published as .1 at batch 3072: give `lr` for batches as large
        sgd = Optimization("sgd", 0.1, 1e-5, warmup_epochs=0.0, final_lr=1.0, no_decay=("super.bias", "sub.bias"))
        self.optimization = suited_to(backbone.norm, sgd)

    def before_epoch(self, bank: PlainImages) -> EpochPlan:
        if bank.plan is None or bank.epoch % self.every == 0:
            targets, renewed = self.cluster(bank), True
        else:
            assert bank.plan.targets is not None
            targets, renewed = bank.plan.targets, False
        cluster = torch.where(targets[0] < 0, -1, targets[0] * self.clusters + targets[1])
        order = balanced_order(cluster.numpy(), len(bank), bank.seed, bank.epoch)
        return EpochPlan(torch.from_numpy(order), targets, ("super.", "sub.") if renewed else ())

    def cluster(self, bank: PlainImages) -> Tensor:
        """The super-cluster of each image, and its cluster in there, (2, N); the classifiers start anew."""
        if (total := self.parts * self.clusters) > len(bank):  # each image would be a cluster by itself
            raise UsageError(
                f"{total} clusters of {len(bank)} images: choose at most as many clusters as there are images"
            )
        ids, features = bank_features(self, bank, lambda pixels: self.hidden(self.encoder(pixels)))
        x = F.normalize(whiten(features, self.components, bank.device), dim=1)
        seed = derive(bank.seed, "k-means", bank.epoch)
        settings: dict[str, Any] = {"iterations": self.iterations, "seed": seed, "device": bank.device}
        levels = hierarchical_kmeans(x, self.parts, self.clusters, **settings)
        part, sub = (for_all(ids, level, len(bank)) for level in levels)
        present = torch.zeros(self.parts, self.clusters, dtype=torch.bool)
        present[part[part >= 0], sub[part >= 0]] = True
        present = present.repeat_interleave(self.turns, dim=0)
        self.super.renew(seed, present.any(dim=1)[None])
        self.sub.renew(derive(seed, "sub"), present)
        return torch.stack([part, sub])

    def forward(self, batch: Batch) -> Loss:
        assert batch.target is not None
        part = (batch.target if batch.planned is None else batch.planned)[:, 0].cpu()
        turn = torch.randint(self.turns, part.shape)
        group = part * self.turns + turn
        pixels = batch.views[0].pixels
        there, turn = torch.stack([group, turn]).to(pixels.device, non_blocking=True)
        x = self.hidden.activated(self.encoder(turned(pixels, turn)))
        losses = {"super": F.cross_entropy(self.super(x), there)}
        return Loss.of({**losses, "sub": F.cross_entropy(self.sub(x, group), batch.target[:, 1])})


def turned(pixels: Tensor, turn: Tensor) -> Tensor:
    """Each of the images (B, C, s, s) turned left by `turn` (B,) quarters."""
    for quarters in (1, 2, 3):
        chosen = (turn == quarters)[:, None, None, None]
        pixels = torch.where(chosen, pixels.rot90(quarters, dims=(2, 3)), pixels)
    return pixels
