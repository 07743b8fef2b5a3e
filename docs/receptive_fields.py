"""Write docs/receptive_fields.md and its picture: `python docs/receptive_fields.py RUN PHOTOS`.

RUN is an encoder that `glocal.backbones.load_encoder` opens, PHOTOS a folder. The encoder stands beside its own
architecture with random weights.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
from glocal.report.photographs import choose, load
from matplotlib.figure import Figure
from matplotlib.patches import Circle
from torch import nn

from glocal.backbones import build_backbone, list_backbones, load_encoder
from glocal.backbones.receptive_field import EffectiveField, effective_receptive_field, receptive_field
from glocal.data import open_source
from glocal.evaluation.extract import normalise

PAGE = Path(__file__).with_suffix(".md")
PICTURE = PAGE.with_suffix(".png")
SIDE, PHOTOS, SHOWN, CHANNELS = 192, 16, 3, 8

HEAD = """# Receptive fields

What can one cell of the map see, and what does it see? Cells that see the whole image can all say the same; cells that
see 9 px cannot. `co_*` are our reading of the RF-ResNets of CO-SSL (Aubret, Teulière, Triesch 2025, arXiv 2501.02860),
in which only the first two blocks of a stage convolve 3×3: what of them was read and what is guessed stands in
[CO-SSL](co_ssl.md). `rf*` are strided ResNets, ours: the receptive field is set by the strides and the max-pooling
alone, at the parameters of the standard ResNet. BagNets (Brendel & Bethge 2019) go down to 9 px.

    glocal pretrain photos/ --method co-byol --backbone co_resnet50_rf99

```python
from glocal.backbones import build_backbone
from glocal.backbones.receptive_field import effective_receptive_field, receptive_field

receptive_field(build_backbone("co_resnet50_rf99"))  # ReceptiveField(size=99, stride=16, offset=0.5)
```

`receptive_field` spoils pixels: a NaN makes NaN of every cell that can see it, whatever the weights. It is confirmed in
the tests by the support of the gradient, for every row. Attention, squeeze-and-excitation and GroupNorm see everything,
and are an error.
"""
NOTES = """
The names are the computed sizes. For the standard ResNet-50 the paper says 425; `receptive_field` and the gradient both
give 427. Each 3×3 convolution adds 2·j, so that a ResNet-34 sees 899 px; of the `co_*`, whose third block and all later
ones are 1×1, the size does not depend on the number of blocks. A 3×3 stem has 7,680 parameters fewer than the 7×7; all
else of the `rf*` is equal, so that weights of the standard network load. BagNets pad nothing (24×24 cells of 224 px for
BagNet-33), so that each cell depends on one patch of real pixels wherever it lies; the shortcut loses its last two rows
and columns where the 3×3 convolution does.
"""


def table() -> str:
    rows = ["| backbone | receptive field (px) | stride (px) | centre of cell 0 (px) | parameters (M) |"]
    rows.append("|---|---|---|---|---|")
    found = []
    for name in [name for kind in ("co_resnet*", "rf*_resnet*", "bagnet*") for name in list_backbones(kind)]:
        backbone = build_backbone(name)
        found.append((name, receptive_field(backbone), sum(p.numel() for p in backbone.parameters()) / 1e6))
    found.sort(key=lambda row: -row[1].size)
    return "\n".join(
        rows + [f"| `{n}` | {f.size} | {f.stride} | {f.offset:g} | {millions:.2f} |" for n, f, millions in found]
    )


def draw(fields: dict[str, EffectiveField], photographs: list[np.ndarray]) -> Figure:
    """A row per arm: the field itself, then photographs as bright as the square root of what the cell sees."""
    columns = 1 + len(photographs)
    figure = Figure(figsize=(2.1 * columns, 2.25 * len(fields)), layout="constrained")
    for row, (name, field) in enumerate(fields.items()):
        seen = (field.map / field.map.quantile(0.999)).clamp(0, 1).sqrt().numpy()
        for column in range(columns):
            axes = figure.add_subplot(len(fields), columns, row * columns + column + 1)
            axes.set_xticks([])
            axes.set_yticks([])
            extent = (0, SIDE, SIDE, 0)
            if column == 0:
                axes.imshow(seen, cmap="magma", extent=extent)
                axes.set_ylabel(name)
            else:
                photograph = photographs[column - 1] / 255
                axes.imshow(photograph * (0.15 + 0.85 * seen[..., None]), extent=extent)
            for share, style in ((0.5, "-"), (0.9, "--")):
                axes.add_patch(Circle(field.center, field.radius(share), fill=False, color="w", linestyle=style))
            axes.set(xlim=(0, SIDE), ylim=(SIDE, 0))
    return figure


def main(run: str, photos: str) -> None:
    trained = load_encoder(run)
    torch.manual_seed(0)
    random = build_backbone(**trained.config).eval()
    for module in random.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    arms = {"random": random, "trained": trained}
    source = open_source(photos)
    squares = [np.asarray(p.image) for p in load(source, choose(source, PHOTOS), SIDE)]
    pixels = torch.from_numpy(np.stack(squares))
    fields = {
        name: effective_receptive_field(encoder, normalise(encoder, pixels), channels=CHANNELS)
        for name, encoder in arms.items()
    }
    draw(fields, squares[:SHOWN]).savefig(PICTURE, dpi=110)
    size = receptive_field(trained).size
    rows = "\n".join(f"| {name} | {f.radius(0.5):.0f} | {f.radius(0.9):.0f} |" for name, f in fields.items())
    stride = trained.config["output_stride"]
    what = trained.name + (f" at output stride {stride}" if stride else "")
    told = json.loads((Path(run) / "encoder.json").read_text())["extra"]
    picture = f"""## The effective receptive field

![What the central cell sees, random and trained](receptive_fields.png)

Mean of |∂h/∂pixel| of the central cell over {len(squares)} photographs and {CHANNELS} channels, for {what}, whose
receptive field is {size} px, on {SIDE} px images. Circles hold 50% and 90% of it; the photographs are lit by its square
root. Trained: {told["method"]}, {told["steps"]} steps, {told["images"]:,} images. Random: BatchNorm scales are 1, as
timm's zero-initialised branches would leave the shortcuts alone.

| weights | radius with 50% (px) | radius with 90% (px) |
|---|---|---|
{rows}

`effective_receptive_field(backbone, images)` measures it for any backbone; this page is made by
`python docs/receptive_fields.py RUN PHOTOS`.
"""
    PAGE.write_text(HEAD + "\n" + table() + "\n" + NOTES + "\n" + picture)


if __name__ == "__main__":
    main(*sys.argv[1:])
