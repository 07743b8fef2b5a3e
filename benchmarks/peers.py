"""lightly's own recipe pieces, put together as its examples do: a plain loop under bf16 autocast."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import timm
import torch
from lightly.data import LightlyDataset
from lightly.loss import VICRegLLoss, VICRegLoss
from lightly.models.modules.heads import VicRegLLocalProjectionHead, VICRegProjectionHead
from lightly.transforms import VICRegLTransform, VICRegTransform
from lightly.utils.lars import LARS
from torch import Tensor, nn
from torch.utils.data import DataLoader

from benchmarks.cases import Case
from benchmarks.measure import DEVICE
from glocal.pipeline.launch import keep_freed_memory


class VICReg(nn.Module):
    """lightly's VICReg: pooled features, its projection head, its loss."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.backbone = timm_model(case)
        dim = self.backbone.num_features
        self.head = VICRegProjectionHead(dim, case.width, case.width, num_layers=3)
        self.criterion = VICRegLoss()

    def forward(self, views: list[Tensor]) -> Tensor:
        return self.criterion(*(self.head(self.backbone(view)) for view in views))


class VICRegL(nn.Module):
    """lightly's VICRegL: maps, their means, its two heads, its loss."""

    def __init__(self, case: Case) -> None:
        super().__init__()
        self.backbone = timm_model(case)
        dim = self.backbone.num_features
        self.head = VICRegProjectionHead(dim, case.width, case.width, num_layers=3)
        self.local_head = VicRegLLocalProjectionHead(dim, case.local_width, case.local_width)
        self.criterion = VICRegLLoss(alpha=0.9, num_matches=(case.matches, case.matches))

    def forward(self, views: list[Tensor]) -> Tensor:
        pixels, grids = views[: len(views) // 2], views[len(views) // 2 :]
        pairs = []
        for view in pixels:
            cells = self.backbone.forward_features(view)
            if cells.ndim == 3:  # a transformer's tokens, after the class token
                cells = cells[:, self.backbone.num_prefix_tokens :]
                side = round(cells.shape[1] ** 0.5)
                cells = cells.unflatten(1, (side, side))
            else:
                cells = cells.permute(0, 2, 3, 1)
            pairs.append((self.head(cells.mean(dim=(1, 2))), self.local_head(cells)))
        return self.criterion(pairs, grids)


def timm_model(case: Case) -> nn.Module:
    """The same architecture that Glocal builds."""
    options: dict = {} if case.stride is None else {"output_stride": case.stride}
    if "vit" in case.backbone:
        options["img_size"] = case.image_size
    return timm.create_model(case.backbone, num_classes=0, **options)


def batches(case: Case, photos: Path, workers: int) -> Iterator[list[Tensor]]:
    """Endless batches of views (and, for VICRegL, grids), drawn and made by lightly."""
    if case.method == "vicreg":
        transform = VICRegTransform(input_size=case.image_size)
    else:
        transform = VICRegLTransform(
            global_crop_size=case.image_size, n_local_views=0, global_grid_size=case.cells, global_crop_scale=(0.08, 1)
        )
    loader = DataLoader(
        LightlyDataset(str(photos), transform=transform),
        batch_size=case.batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=DEVICE.type == "cuda",
    )
    while True:
        for views, *_ in loader:
            yield views


def train(case: Case, photos: Path, workers: int, *, bf16: bool, tuned: bool = False) -> Iterator[None]:
    """A training run, endless, that stops after each step to be timed.

    Args:
        case: what to train.
        photos: what on.
        workers: of its loader.
        bf16: by autocast.
        tuned: in channels_last, with freed memory kept by the process, as Glocal trains.
    """
    if tuned and DEVICE.type == "cpu":
        keep_freed_memory()
    layout = torch.channels_last if tuned else torch.contiguous_format
    model = (VICReg if case.method == "vicreg" else VICRegL)(case).to(device=DEVICE, memory_format=layout)
    optimizer: torch.optim.Optimizer
    if "vit" in case.backbone:
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0.05)
    else:
        optimizer = LARS(model.parameters(), lr=0.3 * case.batch / 256, weight_decay=1e-6, momentum=0.9)
    for views in batches(case, photos, workers):
        views = [view.to(DEVICE, non_blocking=True) for view in views]
        views = [view.to(memory_format=layout) if view.ndim == 4 and view.shape[1] == 3 else view for view in views]
        with torch.autocast(DEVICE.type, torch.bfloat16, enabled=bf16):
            loss = model(views)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield
