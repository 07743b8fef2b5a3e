"""LOCA: location-aware self-supervised transformers (Caron, Houlsby, Schmid, WACV 2024, arXiv:2212.02400)."""

import math
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.heads.cross_attention import CrossAttentionBlock
from glocal.heads.projector import DINOHead
from glocal.losses import Loss, mean_entropy
from glocal.losses.assignment import balanced_targets, masked_mean
from glocal.losses.loss import upcast
from glocal.methods.encode import check_drops, encode, keep_random
from glocal.methods.published import Optimization, Preset
from glocal.methods.teacher import cosine, ema_copy, update_ema
from glocal.views import Batch, Crop, Recipe, blur_at


class LOCA(nn.Module):
    """Every patch of a crop says where it lies in a reference crop of the same image, and which cluster lies there.

    The reference goes through a teacher; the query's patches see a fifth of its tokens and must name one of its N
    places. Balanced cluster targets and the mean prediction's entropy prevent collapse. Needs: a vision transformer
    (the authors' has stochastic depth .1), a second network in memory, one large crop and nine small ones beside the
    reference, of which only patches inside it count; any batch. Choose it for dense features, where segmentation is the
    aim; its pooled features are not trained. Expect, ViT-B/16 on ImageNet, 100 epochs: 46.2 mIoU on ADE20k with a
    linear decoder. Convolutional networks cannot leave out patches: give `query_keep=1`.

    Args:
        image_size: side of the reference and of the large query, pixels.
        scale: area of these two as a fraction of their image, (least, most).
        query_keep: share of the large query's patches that are kept, at random (70 of 196).
        context: share of the reference's tokens that queries see, consecutive ones (39 of 196).
        clusters: K.
        hidden: width of the cluster head's hidden layers.
        bottleneck: width of its normalised vectors.
        temperature: τ of the cluster predictions.
        target_temperature: of the cluster targets.
        rounds: of Sinkhorn normalisation of the targets.
        momentum: of the teacher at the start; it goes to 1 along a cosine.
    """

    title = "LOCA"
    paper = (
        "Caron, Houlsby, Schmid. Location-Aware Self-Supervised Transformers for Semantic Segmentation. WACV 2024."
        " arXiv:2212.02400"
    )
    pool = "mean"
    teacher_momentum = "momentum"  # the option that a short run may lower
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {"drop_path": 0.1},
        "small": lambda batch: {"clusters": 512, "hidden": 512, "small_crops": 3, "small_size": 48, "momentum": 0.99},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.32, 1.0),
        small_crops: int = 9,
        small_size: int = 96,
        small_scale: tuple[float, float] = (0.05, 0.32),
        query_keep: float = 0.357,
        context: float = 0.2,
        clusters: int = 4096,
        hidden: int = 2048,
        bottleneck: int = 256,
        temperature: float = 0.1,
        target_temperature: float = 0.05,
        rounds: int = 3,
        momentum: float = 0.996,
    ) -> None:
        super().__init__()
        check_drops(backbone, query_keep, "query_keep=1")
        self.encoder = backbone
        self.side = -(-image_size // backbone.stride)  # of the grid of places, whatever the patches of a step
        self.head = DINOHead(backbone.dim, hidden=hidden, bottleneck=bottleneck, outputs=clusters)
        self.decoder = CrossAttentionBlock(backbone.dim, heads=max(1, backbone.dim // 64))
        self.where = nn.Sequential(nn.LayerNorm(backbone.dim, eps=1e-6), nn.Linear(backbone.dim, self.side**2))
        self.teacher, self.teacher_head = ema_copy(backbone), ema_copy(self.head)
        self.query_keep, self.context, self.rounds, self.momentum = query_keep, context, rounds, momentum
        self.temperature, self.target_temperature = temperature, target_temperature
        reference = Crop(image_size, scale, flip=0.0, blur=1.0, sigma=blur_at(image_size))
        query = reference.but(flip=0.5, blur=0.1, solarize=0.2)
        small = query.but(size=small_size, scale=small_scale, blur=0.5, solarize=0.0)
        self.recipe = Recipe((reference, query) + (small,) * small_crops)
        self.optimization = Optimization("adamw", 2.5e-4, 0.1, warmup_epochs=15.0, final_lr=0.01, clip=1.0)

    def forward(self, batch: Batch) -> Loss:
        reference, query, *small = batch.views
        queries = [keep_random(query, self.encoder.stride, self.query_keep), *small]
        with torch.no_grad():
            seen = self.teacher(reference.pixels)
            scores = self.teacher_head(seen.tokens)
            clusters = balanced_targets(scores.flatten(0, 1), self.target_temperature, self.rounds).view(scores.shape)
        features = encode(self.encoder, queries, group="size")
        tokens = torch.cat([f.tokens for f in features], dim=1)  # of all queries: (B, N, D)
        looks = [f.positions if f.positions.ndim == 3 else f.positions[None] for f in features]
        homes = torch.cat([view.to_source(at) for view, at in zip(queries, looks, strict=True)], dim=1)
        cell = reference.cell_of(homes, *seen.dense.shape[2:])  # (B, N)
        place = reference.cell_of(homes, self.side, self.side)
        logits = self.where(self.decoder(tokens, some_consecutive(seen.tokens, self.context)))
        predictions = upcast(self.head(tokens)) / self.temperature
        target = clusters.gather(1, cell.clamp_min(0)[:, :, None].expand(-1, -1, clusters.shape[2]))
        position = F.cross_entropy(upcast(logits).flatten(0, 1), place.clamp_min(0).flatten(), reduction="none")
        cluster = F.cross_entropy(predictions.flatten(0, 1), target.flatten(0, 1), reduction="none")
        inside = (place >= 0).flatten()
        spread = math.log(predictions.shape[2]) - mean_entropy(predictions.softmax(dim=-1))
        terms = {"position": masked_mean(position, inside), "cluster": masked_mean(cluster, inside)}
        return Loss.of({**terms, "mean_entropy": spread})

    def after_step(self, progress: float) -> None:
        momentum = cosine(progress, self.momentum, 1.0)
        update_ema(self.teacher, self.encoder, momentum)
        update_ema(self.teacher_head, self.head, momentum)


def some_consecutive(tokens: Tensor, share: float) -> Tensor:
    """A random run of consecutive tokens (B, N, D), the same for the whole batch, drawn from torch's generator."""
    number = max(1, round(share * tokens.shape[1]))
    first = int(torch.randint(tokens.shape[1] - number + 1, ()))
    return tokens[:, first : first + number]
