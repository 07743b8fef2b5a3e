"""The pictures of the docs: `python docs/pictures.py PHOTOGRAPHS [ENCODER ...]`, a folder of some free to show (CC0).

parts.jpg    the generated world: images, part masks, key points and boxes
views.jpg    photographs, where their two views were cut, what the encoder receives
seen.jpg     a photograph, and what the encoders that are named see in it; only this one then
matches.jpg  cells of two views of one photograph that look at the same place, by receptive field and by uniform grid
"""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
import torch
from matplotlib import pyplot as plt
from matplotlib.patches import ConnectionPatch, Polygon, Rectangle
from PIL import Image

from glocal.backbones import build_backbone, load_encoder
from glocal.data import PartsWorld, open_source
from glocal.data.source import ImageSource
from glocal.generation.pixels import seen
from glocal.pipeline.inspire import square
from glocal.views import Appearance, Batch, View, ViewLoader, two_views

FIGURES = Path(__file__).parent / "figures"
COLORS = ("#d1495b", "#00798c")


def parts(out: Path) -> None:
    """Six samples in two rows: as an encoder sees them, and what is known about them."""
    world = PartsWorld(n=64, size=128, seed=0)
    figure, axes = plt.subplots(2, 6, figsize=(12, 4.1))
    for i, column in enumerate(axes.T):
        sample = world.sample(i)
        column[0].imshow(sample.image)
        column[0].set_title(f"class {sample.label}", fontsize=9)
        column[1].imshow(np.ma.masked_equal(sample.mask, 0), cmap="tab10", vmin=0, vmax=9, interpolation="nearest")
        for x0, y0, x1, y1 in sample.boxes:
            column[1].add_patch(Rectangle((x0 - 0.5, y0 - 0.5), x1 - x0, y1 - y0, fill=False, lw=0.6, color="0.5"))
        column[1].plot(*(sample.keypoints[:, :2] - 0.5).T, ".", color="black", ms=4)
        column[1].set(xlim=column[0].get_xlim(), ylim=column[0].get_ylim(), aspect="equal")
    save(figure, axes, out)


def loaded(photographs: str, size: int, n: int, seed: int) -> tuple[ImageSource, Batch, Batch]:
    """Photographs, a first batch, and that batch as the encoder receives it, in [0, 1]."""
    source, recipe = open_source(photographs), two_views(size)
    batch = next(iter(ViewLoader(source, recipe, batch_size=n, seed=seed, workers=0).epoch(0)))
    return source, batch, Appearance(recipe, (0.0,) * 3, (1.0,) * 3, seed)(batch, 0)


def outline(view: View, i: int) -> np.ndarray:
    """Corners of crop i in its photograph, (4, 2)."""
    side = view.pixels.shape[-1]
    corners = torch.tensor([[0.0, 0.0], [side, 0.0], [side, side], [0.0, side]])
    return view.to_source(corners[None])[i].numpy()


def views(photographs: str, out: Path) -> None:
    """Each photograph with its two boxes, and its two views."""
    source, batch, seen = loaded(photographs, 96, 4, seed=2)
    figure, axes = plt.subplots(3, 4, figsize=(8, 6.6), height_ratios=(1.5, 1, 1))
    for i, column in enumerate(axes.T):
        column[0].imshow(source.open(int(batch.index[i])).decode())
        for v, color in enumerate(COLORS):
            column[0].add_patch(Polygon(outline(batch.views[v], i), fill=False, lw=2, color=color))
            column[1 + v].imshow(seen.views[v].pixels[i].permute(1, 2, 0).float().clamp(0, 1).numpy())
            mirrored = ", mirrored" if batch.views[v].flipped[i] else ""
            column[1 + v].set_title(f"view {v}{mirrored}", fontsize=9, color=color)
    save(figure, axes, out)


def matches(photographs: str, out: Path) -> None:
    """The six closest pairs of cells of two views, one of them mirrored, under both notions of where a cell looks."""
    photos, batch, _ = loaded(photographs, 192, 64, seed=2)
    a, b = batch.views
    overlap = torch.cdist(a.centers(6, 6).flatten(1, 2), b.centers(6, 6).flatten(1, 2)).amin(2).mean(1)
    i = int(torch.where(a.flipped ^ b.flipped, overlap, torch.inf).argmin())
    photograph = photos.open(int(batch.index[i])).decode()
    cells = build_backbone("resnet18").cells(6, 6)[None]
    notions = {
        "centre of the receptive field (ResNet, stride 32)": [v.to_source(cells)[i] for v in (a, b)],
        "centre of an even grid": [v.centers(6, 6)[i] for v in (a, b)],
    }
    figure, axes = plt.subplots(2, 3, figsize=(9, 6.2), width_ratios=(1, 1.1, 1))
    for row, (title, (home_a, home_b)) in zip(axes, notions.items(), strict=True):
        crops = [v.pixels[i].permute(1, 2, 0).numpy() for v in (a, b)]
        row[0].imshow(crops[0])
        row[1].imshow(photograph)
        row[2].imshow(crops[1])
        row[1].set_title(title, fontsize=9)
        for view, home, color in ((a, home_a, COLORS[0]), (b, home_b, COLORS[1])):
            row[1].add_patch(Polygon(outline(view, i), fill=False, lw=2, color=color))
            row[1].plot(*home.flatten(0, 1).T.numpy(), ".", ms=3, color=color)
        near = torch.cdist(home_a.flatten(0, 1), home_b.flatten(0, 1))
        distance, target = near.min(1)
        for n, source in enumerate(distance.argsort()[:6].tolist()):
            points = [np.array([(k % 6 + 0.5) * 32, (k // 6 + 0.5) * 32]) for k in (source, int(target[source]))]
            color = plt.get_cmap("tab10")(n)
            link = ConnectionPatch(points[0], points[1], "data", "data", axesA=row[0], axesB=row[2], color=color, lw=1)
            figure.add_artist(link)
            for axis, point in ((row[0], points[0]), (row[2], points[1])):
                axis.add_patch(Rectangle(point - 16, 32, 32, fill=False, color=color, lw=2))
    save(figure, axes, out)


def seen_by(photographs: str, encoders: list[str], out: Path) -> None:
    """The first photograph; by encoder what it sees of the whole, and below it place by place."""
    opened = open_source(photographs).open(0).decode()
    figure, axes = plt.subplots(2, 1 + len(encoders), figsize=(2.4 * (1 + len(encoders)), 4.9))
    axes[0, 0].imshow(opened)
    for name, column in zip(encoders, axes.T[1:], strict=True):
        encoder = load_encoder(name, image_size=64)
        picture = square(Image.fromarray(opened), 64, "cpu")
        for dense, axis in enumerate(column):
            found = seen(encoder, picture, dense=bool(dense))
            axis.imshow(found.pixels.permute(1, 2, 0).numpy())
            axis.set_title(f"{'place by place' if dense else Path(name).stem}: {found.distance:.2f} left", fontsize=8)
    save(figure, axes, out)


def save(figure, axes, out: Path) -> None:
    """Without ticks and frames."""
    for axis in np.ravel(axes):
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    figure.tight_layout(pad=0.4)
    figure.savefig(out, dpi=100, pil_kwargs={"quality": 85})
    plt.close(figure)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit((__doc__ or "").strip())
    FIGURES.mkdir(exist_ok=True)
    if encoders := sys.argv[2:]:
        seen_by(sys.argv[1], encoders, FIGURES / "seen.jpg")
        sys.exit()
    parts(FIGURES / "parts.jpg")
    views(sys.argv[1], FIGURES / "views.jpg")
    matches(sys.argv[1], FIGURES / "matches.jpg")
