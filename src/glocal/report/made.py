"""What the report shows of a run that makes images: samples, and ways from one photograph to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from glocal.evaluation.generation import samples
from glocal.generation import grid
from glocal.report.visuals import Photograph, embed

ROWS, COLUMNS = 4, 8


@dataclass(frozen=True)
class Made:
    """Pictures of `COLUMNS` images a row.

    Attributes:
        samples: drawn; of a flow under clusters each row is of one of them.
        clusters: which, one a row; none where there are none.
        ways: photographs at both ends, beside them what their codes decode to, and codes between; None for flows.
    """

    samples: Image.Image
    clusters: list[int]
    ways: Image.Image | None = None


def made_by(generator: Any, encoder: Any, photographs: list[Photograph]) -> Made:
    """Pictures of a generator and the encoder of its codes; `photographs` have the generator's size."""
    clusters = getattr(generator, "frequencies", torch.empty(0)).argsort(descending=True)[:ROWS].tolist()
    if clusters:
        drawn = torch.cat([samples(generator, COLUMNS, cluster=cluster) for cluster in clusters])
    else:
        drawn = samples(generator, ROWS * COLUMNS)
    ways = None
    if hasattr(generator, "decode") and len(photographs) >= 2 * ROWS:
        codes, _ = embed(encoder, ends := photographs[: 2 * ROWS])
        if codes.shape[1:] == generator.latent_shape:  # else its latents are no codes of images
            ways = _shown(_ways(generator, codes, ends))
    return Made(_shown(drawn), clusters, ways)


@torch.inference_mode()
def _ways(generator: Any, codes: Tensor, photographs: list[Photograph]) -> Tensor:
    """Rows of a photograph, its code decoded, codes on the way, the other's decoded, the other: (N, 3, h, w) uint8."""
    pixels = torch.stack([torch.frombuffer(bytearray(p.image.tobytes()), dtype=torch.uint8) for p in photographs])
    pixels = pixels.unflatten(1, (photographs[0].image.height, -1, 3)).permute(0, 3, 1, 2)
    rows = []
    for one in range(0, len(photographs), 2):
        shares = torch.linspace(0, 1, COLUMNS - 2)[:, None]
        between = generator.decode(torch.lerp(codes[one], codes[one + 1], shares))
        rows += [pixels[one : one + 1], (255 * between.clamp(0, 1)).round().byte(), pixels[one + 1 : one + 2]]
    return torch.cat(rows)


def _shown(images: Tensor) -> Image.Image:
    """Side by side, at least 64 pixels each."""
    picture, scale = grid(images, COLUMNS), max(1, 64 // images.shape[-1])
    return picture.resize((scale * picture.width, scale * picture.height), Image.Resampling.NEAREST)
