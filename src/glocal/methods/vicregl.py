"""VICRegL: VICReg on the whole and on the parts (Bardes, Ponce, LeCun, NeurIPS 2022, arXiv:2210.01571)."""

from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from glocal.backbones import Backbone
from glocal.errors import UsageError
from glocal.features import Features
from glocal.heads import projector as build_projector
from glocal.losses import Loss, vicregl_loss
from glocal.methods.encode import encode
from glocal.methods.published import Optimization, Preset, width_for
from glocal.views import Batch, View, multi_crop

OFFICIAL = {"alpha": 0.75, "l2_top_k": False, "matches_by_crop_type": False, "cells": "uniform", "flip_aware": False}


class VICRegL(nn.Module):
    """α · VICReg on pooled embeddings + (1 − α) · VICReg on matched cells of the feature maps.

    Each cell of one view is matched with its nearest cell of the other, once by where both lie in the photograph
    (location) and once by what they contain (L2 in the projected space); the best matches enter a VICReg loss. Choose
    it when the features must serve segmentation, detection or correspondence as well as classification. Needs: feature
    maps of at least 6×6 cells (see `output_stride`), any batch from 32. Expect, ResNet-50 on ImageNet, 300 epochs,
    against VICReg: +6 to +8 points of frozen segmentation for about one of classification, the more the lower α.

    Args:
        small_crops: number of small crops beside the two large ones (published: 0 for ResNet, 6 for ConvNeXt).
        alpha: weight of the global loss; 1 − alpha weighs the local one.
        projector: widths of the global projector's layers.
        local_projector: widths of the local projector's layers, applied at every cell.
        invariance_weight: weight of the mean squared difference between matched embeddings.
        variance_weight: weight of the hinge on each dimension's standard deviation.
        covariance_weight: weight of the squared off-diagonal covariances, averaged over views.
        matches: matches kept per large and per small map, or the kept fraction of each map's cells.
        l2_top_k: keep only the best L2 matches too (the authors' intended default), or all of them (their code's).
        matches_by_crop_type: take the large or small count by the crop that is matched, as in the paper, or by
            direction, as in the authors' code.
        slot_order: order of the kept matches, whose statistics are per slot: by cell "index" (authors) or by
            "distance".
        cells: where a cell looks: "field", the centre of its receptive field, or "uniform", the centre of an even grid.
        flip_aware: mirror the locations of a mirrored crop. The authors' code does not.
    """

    title = "VICRegL"
    paper = "Bardes, Ponce, LeCun. VICRegL: Self-Supervised Learning of Local Features. NeurIPS 2022. arXiv:2210.01571"
    pool = "mean"
    least_cells = 6  # along a side of a large crop's map, below which matching says little
    presets: ClassVar[dict[str, Preset]] = {
        "paper": lambda batch: {},
        "small": lambda batch: {
            "projector": (width_for(batch),) * 3,
            "local_projector": (min(512, width_for(batch) // 4),) * 3,
            "matches": 0.4,
        },
        "official": lambda batch: OFFICIAL,
        "paper-convnext": lambda batch: {"scale": (0.4, 1.0), "small_crops": 6, "drop_path": 0.1},
    }

    def __init__(
        self,
        backbone: Backbone,
        *,
        image_size: int = 224,
        scale: tuple[float, float] = (0.08, 1.0),
        small_crops: int = 0,
        small_size: int = 96,
        small_scale: tuple[float, float] = (0.08, 0.4),
        alpha: float = 0.9,
        projector: tuple[int, ...] = (8192, 8192, 8192),
        local_projector: tuple[int, ...] = (512, 512, 512),
        invariance_weight: float = 25.0,
        variance_weight: float = 25.0,
        covariance_weight: float = 1.0,
        matches: tuple[int, int] | float = (20, 4),
        l2_top_k: bool = True,
        matches_by_crop_type: bool = True,
        slot_order: Literal["index", "distance"] = "index",
        cells: Literal["field", "uniform"] = "field",
        flip_aware: bool = True,
    ) -> None:
        if not 0 <= alpha <= 1:
            raise UsageError(f"alpha is {alpha}; it weighs the global loss against the local one, from 0 to 1")
        super().__init__()
        self.encoder = backbone
        if alpha > 0:  # what gets no gradient is not built: DDP waits for every parameter's
            self.projector = build_projector((backbone.dim, *projector), norm=backbone.norm)
        if alpha < 1:
            self.local_projector = build_projector((backbone.dim, *local_projector), norm=backbone.norm)
        self.alpha, self.cells, self.flip_aware = alpha, cells, flip_aware
        self.loss_options: dict[str, Any] = {
            "matches": matches,
            "invariance_weight": invariance_weight,
            "variance_weight": variance_weight,
            "covariance_weight": covariance_weight,
            "l2_top_k": l2_top_k,
            "matches_by_crop_type": matches_by_crop_type,
            "slot_order": slot_order,
        }
        self.recipe = multi_crop(image_size, small_crops, small_size, large_scale=scale, small_scale=small_scale)
        lars = Optimization("lars", lr=0.2, weight_decay=1e-6)  # 300-epoch recipe
        adamw = Optimization("adamw", lr=7.5e-4, weight_decay=0.05)  # ConvNeXt-S recipe
        self.optimization = lars if backbone.norm == "batch" else adamw

    def forward(self, batch: Batch) -> Loss:
        features = encode(self.encoder, batch.views)
        embeddings = [self.projector(f.pooled) for f in features if self.alpha > 0]
        maps = [self.local_map(f) for f in features if self.alpha < 1]
        centers = [self.locations(view, *m.shape[-2:]) for view, m in zip(batch.views, maps, strict=False)]
        return vicregl_loss(embeddings, maps, centers, alpha=self.alpha, **self.loss_options)

    def local_map(self, features: Features) -> Tensor:
        """The projected map, (B, C, H, W)."""
        return Features(features.pooled, self.local_projector(features.tokens), features.positions, features.grid).dense

    @torch.no_grad()
    def locations(self, view: View, height: int, width: int) -> Tensor:
        """Where each cell of a view looks, (B, H, W, 2) in source pixels."""
        field = self.encoder.cells(height, width, device=view.affine.device)[None]
        centers = view.to_source(field) if self.cells == "field" else view.centers(height, width)
        unaware = view.flipped[:, None, None, None] & (not self.flip_aware)
        return torch.where(unaware, centers.flip(2), centers)
