"""PAWS: predicting view assignments with support samples (Assran et al., ICCV 2021, arXiv:2104.13963)."""

from typing import Any, ClassVar

import torch
from torch import nn

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.heads import BatchNorm, projector as build_projector
from glocal.losses import Loss, mean_entropy, sharpen
from glocal.losses.assignment import cross_entropy, support_predictions, swapped_targets
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, suited_to
from glocal.methods.swav import swav_views
from glocal.views import Batch, Recipe, Support


class PAWS(nn.Module):
    """Views of one image are to get the same label from a few labelled ones, by similarity to them.

    Half supervised: every batch comes with labelled images, equally many of each of some classes. The mean of the sharp
    predictions is kept spread out over the classes; that, and the labels, prevent collapse: there is no teacher. Needs:
    labels of a few images of each class; support sets as large as memory allows (published: 7 images of each of 960
    classes, with batches of 4096); two large crops and, for its best, six small ones. Choose it where some labels
    exist: it reaches with them in a third of the epochs what others reach without. Expect, ResNet-50 on ImageNet, 300
    epochs, with 1% of the labels: 64.2% by nearest neighbours, 66.5% fine-tuned; with 10%: 73.1% and 75.5%.

    Args:
        image_size: side of the two large crops and of the labelled ones, pixels.
        labelled: how much of each class may be seen with its label, chosen by the seed: a fraction below 1, or from 1
            on a number of images.
        support_classes: classes in a support set, over all processes; all, where there are fewer.
        support_images: labelled images of each.
        temperature: τ of the similarities.
        sharpening: T of the targets.
        smoothing: of the labels.
    """

    title = "PAWS"
    paper = (
        "Assran et al. Semi-Supervised Learning of Visual Features by Non-Parametrically Predicting View Assignments"
        " with Support Samples. ICCV 2021. arXiv:2104.13963"
    )
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {
            "projector": (512, 512, 128),
            "support_classes": 20,
            "support_images": 12,
            "scale": (0.4, 1.0),  # in less of an image, untrained features find no class again
            "temperature": 0.05,
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
        labelled: float = 0.1,
        support_classes: int = 960,
        support_images: int = 7,
        projector: tuple[int, ...] = (2048, 2048, 2048),
        temperature: float = 0.1,
        sharpening: float = 0.25,
        smoothing: float = 0.1,
    ) -> None:
        super().__init__()
        width = projector[-1]
        self.encoder = backbone
        self.projector = build_projector((backbone.dim, *projector), norm="batch")
        self.predictor = nn.Sequential(BatchNorm(width), build_projector((width, width // 4, width), norm="batch"))
        self.temperature, self.sharpening, self.smoothing = temperature, sharpening, smoothing
        views = swav_views(image_size, small_crops, small_size, scale, small_scale).views
        self.recipe = Recipe(views, Support(views[:1], support_classes, support_images, labelled))
        self.optimization = suited_to(backbone.norm, Optimization("lars", lr=0.4, weight_decay=1e-6, final_lr=0.01))

    def forward(self, batch: Batch) -> Loss:
        support = batch.support
        if support is None or support.label is None:
            raise UsageError("PAWS needs labelled images beside each batch: Batch.support, with labels")
        views = [*support.views, *batch.views]
        h = self.projector(torch.cat([features.pooled for features in encode(self.encoder, views, group="size")]))
        z = self.predictor(h)
        labels = support.label.repeat(len(support.views))
        (h_support, h), (z_support, z) = ((x[: len(labels)], x[len(labels) :]) for x in (h.detach(), z))
        h, z = (x.unflatten(0, (len(batch.views), -1)) for x in (h, z))
        likeness: Any = {"temperature": self.temperature, "smoothing": self.smoothing, "classes": support.classes}
        predictions = support_predictions(z, z_support, labels, **likeness)  # (V, B, classes)
        targets = swapped_targets(
            support_predictions(h[:2], h_support, labels, **likeness), len(batch.views), self.sharpening
        )
        spread = mean_entropy(sharpen(predictions, self.sharpening))
        return Loss.of({"assignment": cross_entropy(predictions, targets), "mean_entropy": -spread})
