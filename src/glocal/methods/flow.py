"""Guided flow matching: images out of noise, guided by clusters that no one has named (Hu et al., arXiv:2312.08825)."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.backbones.unet import FEATURE_TIME
from glocal.backbones.velocity import FlowSampler, VelocityField
from glocal.clustering import kmeans
from glocal.data.source import ImageSource
from glocal.distributed import all_sum
from glocal.errors import UsageError
from glocal.heads.clusters import OwnClusters
from glocal.losses import Loss
from glocal.losses.loss import upcast
from glocal.methods.bank import bank_features, for_all
from glocal.methods.frozen import Frozen
from glocal.methods.published import Optimization, Preset
from glocal.methods.teacher import ema_copy, update_ema
from glocal.random import derive
from glocal.views import Batch, Crop, EpochPlan, PlainImages, Recipe


class Flow(nn.Module):
    """A U-Net learns which way to go from noise to an image, and the map in its middle what is in the image.

    x_t = (1 − t)·x₀ + t·ε; the network sees x_t, t and the image's cluster, and predicts ε − x₀. Needs: a U-Net
    (`unet_small`, which it takes by itself), images of 16 to 64 pixels, many steps, any batch; for a guide, another
    encoder, labels, or nothing but its own features. Choose it to draw images like those of a collection (`glocal
    generate`), of one kind of them, too; as an encoder others are better. Expect a loss that soon stops to fall while
    the images still get better: most of it is the noise, which nobody can predict. Published with labels or clusters at
    64 pixels and more; small here.

    Args:
        image_size: side of the images, pixels; a multiple of 8.
        guide: what the clusters come from: an encoder (a run, an export, timm:NAME), whose features of all images are
            clustered once, before the first epoch; "labels"; "own", the network's own features, clustered while it
            learns; none by default.
        clusters: K; of labels, at least as many as there are classes.
        dropped: share of the images whose cluster is not told, so that the network knows what images are like in all.
        ema: momentum of the moving average of the weights, which is what is kept.
        temperature: of the predicted clusters, of its own.
        epsilon: of their balanced assignment; the smaller, the harder.
    """

    counts: Tensor

    title = "Guided flow"
    paper = (
        "Hu, Chen, Caron, Asano, Snoek, Ommer. Guided Diffusion from Self-Supervised Diffusion Features. 2023."
        " arXiv:2312.08825"
    )
    backbone = "unet_small"
    teacher_momentum = "ema"
    presets: ClassVar[dict[str, Preset]] = {"paper": lambda batch: {}, "small": lambda batch: {}}

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 32,
        guide: str = "",
        clusters: int = 50,
        dropped: float = 0.1,
        ema: float = 0.999,
        temperature: float = 0.1,
        epsilon: float = 0.05,
    ) -> None:
        super().__init__()
        if (guide and clusters < 2) or image_size % 8:
            raise UsageError(f"clusters {clusters}, image_size {image_size}: at least 2, a multiple of 8")
        self.field = VelocityField(backbone, clusters if guide else 0)
        self.average = ema_copy(self.field)
        self.encoder = self.average.backbone
        self.image_size, self.clusters, self.dropped = image_size, clusters, dropped
        self.ema, self.labels = ema, guide == "labels"
        self.guide = Frozen(guide, image_size, backbone, "guide") if guide not in ("", "labels", "own") else None
        self.own = OwnClusters(backbone.dim, clusters, temperature, epsilon) if guide == "own" else None
        self.register_buffer("counts", torch.zeros(clusters if guide else 0, dtype=torch.int64))
        plain = Crop(image_size, scale=(1, 1), ratio=(1, 1), flip=0, jitter=0, gray=0)
        self.recipe = Recipe((plain, plain.but(scale=(0.4, 1.0), flip=0.5)) if self.own else (plain,))
        self.optimization = Optimization("adamw", lr=1e-3, weight_decay=0.0, warmup_epochs=1.0, clip=1.0)

    def begin(self, source: ImageSource) -> None:
        """Before training: refuse images that are fewer than the clusters, or that lack the labels."""
        if self.labels:
            if source.labels is None:
                raise UsageError("--guide labels: these images have none; give --guide own, or an encoder")
            if (classes := int(source.labels.max()) + 1) > self.clusters:
                raise UsageError(f"--guide labels: there are {classes} classes; give --clusters {classes}")
        if self.guide and self.clusters > len(source):
            raise UsageError(f"--clusters {self.clusters} of {len(source)} images: choose fewer clusters")

    def before_epoch(self, bank: PlainImages) -> EpochPlan:
        """Cluster the guide's features, once."""
        if bank.plan is not None or self.guide is None:
            return bank.plan or EpochPlan()
        guide, seed = self.guide, derive(bank.seed, "guide")
        ids, features = bank_features(self, bank, lambda pixels: guide(pixels).pooled)
        unit = F.normalize(features.float(), dim=1)
        found = kmeans(unit, self.clusters, seed=seed, spherical=True, device=bank.device)
        return EpochPlan(targets=for_all(ids, found.assignment, len(bank))[None])

    def forward(self, batch: Batch) -> Loss:
        x, terms = batch.views[0].pixels, {}
        cluster = batch.label if self.labels else batch.target
        if self.own:
            cluster, loss = self.own(*(self.features(view.pixels) for view in batch.views))
            terms["clusters"] = 0.1 * loss
        time, noise, told = self.draw(x)
        if cluster is not None:
            cluster = cluster.flatten()
            seen = torch.zeros_like(self.counts).index_add_(0, cluster.clamp_min(0), (cluster >= 0).long())
            self.counts += all_sum(seen)
            cluster = cluster.where(told >= self.dropped, -1)
        t = time[:, None, None, None]
        velocity = upcast(self.field((1 - t) * x + t * noise, time, cluster))
        return Loss.of({"velocity": F.mse_loss(velocity, noise - x)} | terms)

    def features(self, x: Tensor) -> Tensor:
        """The network's own (B, D), of images (B, 3, h, w) with a little noise."""
        noisy = torch.lerp(x, self.draw(x)[1], FEATURE_TIME)
        return self.field.backbone.model.encode(noisy, x.new_full((len(x),), FEATURE_TIME))[0].mean((2, 3))

    def draw(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Times (B,), noise like the images (B, ...), and a number (B,) that decides whether the cluster is told."""
        time, told = torch.rand(2, len(x), device=x.device, dtype=x.dtype)
        return time, torch.randn_like(x), told

    def after_step(self, progress: float) -> None:
        update_ema(self.average, self.field, self.ema)

    @property
    def generator(self) -> FlowSampler:
        """The moving average as it is now, to draw images with."""
        return FlowSampler.of(self.average, self.counts, self.image_size)
