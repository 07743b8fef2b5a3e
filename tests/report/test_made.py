"""What the report shows of a run that makes images."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import nn

from glocal.features import Features
from glocal.report.made import COLUMNS, ROWS, made_by
from glocal.report.visuals import Photograph


class Colours(nn.Module):
    """Codes are mean colours; drawn are squares of them."""

    mean, std, latent_shape = (0.0,) * 3, (1.0,) * 3, (3,)

    def forward(self, x):
        pooled = x.mean((2, 3))
        return Features(pooled, pooled[:, None], torch.zeros(1, 2), (1, 1))

    def decode(self, codes):
        return codes[:, :, None, None].expand(-1, -1, 16, 16)


class Painter(Colours):
    def forward(self, z, cluster=None):
        return self.decode(z if cluster is None else cluster[:, None].expand(-1, 3) / 10)


def photographs():
    shades = np.linspace(0, 255, 2 * ROWS).round().astype(np.uint8)
    return [Photograph(Image.new("RGB", (16, 16), (int(s),) * 3), f"{s}.png", None) for s in shades]


def at(picture, row, column):
    step = picture.width // COLUMNS
    return picture.getpixel((column * step + step // 2, row * step + step // 2))


def test_ways_lead_from_one_photograph_to_another_in_equal_steps() -> None:
    shown = made_by(Painter(), Colours(), photographs())
    assert shown.clusters == []
    first, second = 0, round(255 / 7)
    way = [at(shown.ways, 0, column)[0] for column in range(COLUMNS)]
    assert way[:2] == [first] * 2
    assert way[-2:] == [second] * 2
    assert np.ptp(np.diff(way[1:-1])) <= 1
    assert shown.samples.width >= 64 * COLUMNS


def test_latents_that_are_no_codes_of_images_lead_nowhere() -> None:
    painter = Painter()
    painter.latent_shape = (5,)  # as a DCGAN's, which knows no encoder
    painter.forward = lambda z, cluster=None: painter.decode(z[:, :3])
    assert made_by(painter, Colours(), photographs()).ways is None


def test_rows_of_a_flow_are_its_most_frequent_clusters() -> None:
    painter = Painter()
    painter.frequencies = torch.tensor([1.0, 5, 0, 2, 9, 3])
    shown = made_by(painter, Colours(), photographs()[:3])
    assert shown.clusters == [4, 1, 5, 3]
    assert [round(at(shown.samples, row, 3)[0] / 25.5) for row in range(ROWS)] == [4, 1, 5, 3]
    assert shown.ways is None  # too few photographs
