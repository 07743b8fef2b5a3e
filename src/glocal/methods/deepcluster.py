"""DeepCluster: k-means labels as classes (Caron et al., ECCV 2018, arXiv:1807.05520)."""

from dataclasses import replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

from glocal.backbones import Backbone
from glocal.clustering import balanced_order, kmeans, whiten
from glocal.heads.clusters import TopLayers
from glocal.losses import Loss
from glocal.methods.bank import FullyConnected, bank_features, crops_only, for_all
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.random import derive
from glocal.views import Batch, EpochPlan, PlainImages


class DeepCluster(nn.Module):
    """Before each epoch all images are clustered by their features; then the clusters are learnt like classes.

    Features are whitened (PCA) and brought to length 1 before k-means; every cluster is served equally often, else the
    largest would swallow the others; the classifier starts anew. Needs: one view, any batch, and before each epoch a
    pass over all images; colour is a short cut, so take a backbone with Sobel input (`sobel_vgg16_bn`,
    `sobel_alexnet`). Choose it for data with about as many kinds as clusters, or to have the clusters themselves;
    `deepcluster_v2` learns better features. Expect, on ImageNet, linear on conv5: AlexNet 38.2%, VGG-16 48.4%.

    Args:
        clusters: K; published at 10,000 for 1.3 million images, about ten times their kinds.
        components: principal components that are clustered.
        iterations: of k-means.
        hidden: widths of fully connected layers on the map, trained with it, whose output is clustered; none for `()`,
            with which pooled features are. By default 4096, 4096 for
            AlexNets and VGGs, whose fully connected output the paper clusters, and none for others.
    """

    title = "DeepCluster"
    paper = (
        "Caron, Bojanowski, Joulin, Douze. Deep Clustering for Unsupervised Learning of Visual Features. ECCV 2018."
        " arXiv:1807.05520"
    )
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {"clusters": min(10_000, 2 * batch), "components": 64},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        clusters: int = 10_000,
        components: int = 256,
        iterations: int = 20,
        hidden: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        self.encoder = backbone
        self.hidden = FullyConnected(backbone, image_size, hidden)
        self.top = TopLayers(self.hidden.dim, 1, clusters)
        self.clusters, self.components, self.iterations = clusters, components, iterations
        self.recipe = crops_only(image_size, scale)
        # a constant rate; the classifier, new in each epoch, without momentum
        sgd = Optimization("sgd", 0.05, 1e-5, warmup_epochs=0.0, final_lr=1.0, no_momentum=("top.",))
        self.optimization = suited_to(backbone.norm, replace(sgd, no_decay=("top.bias",)))

    def before_epoch(self, bank: PlainImages) -> EpochPlan:
        ids, features = bank_features(self, bank, lambda pixels: self.hidden(self.encoder(pixels)))
        x = F.normalize(whiten(features, self.components, bank.device), dim=1)
        seed = derive(bank.seed, "k-means", bank.epoch)
        clusters = kmeans(x, self.clusters, iterations=self.iterations, seed=seed, device=bank.device)
        targets = for_all(ids, clusters.assignment, len(bank))
        self.top.renew(seed, torch.bincount(targets[targets >= 0], minlength=self.clusters)[None] > 0)
        order = balanced_order(targets.numpy(), len(bank), bank.seed, bank.epoch)
        return EpochPlan(torch.from_numpy(order), targets[None], renewed=("top.",))

    def forward(self, batch: Batch) -> Loss:
        assert batch.target is not None
        x = self.hidden.activated(self.encoder(batch.views[0].pixels))
        return Loss.of({"clusters": F.cross_entropy(self.top(x), batch.target[:, 0])})
