"""Matches against a ground truth known in closed form: an encoder whose features are coordinates of the photograph."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from glocal.data.arrays import ArraySource
from glocal.evaluation.correspond import carry, match_errors
from glocal.features import Features
from glocal.report.figures import match_lines
from glocal.report.matches import crop_pair, match, match_photographs, take
from glocal.views import grid_centers

SIDE, STRIDE = 80, 8


def ramp(width: int, height: int) -> np.ndarray:
    """A photograph whose red is x and whose green is y."""
    x = np.linspace(0, 255, width)[None, :, None].repeat(height, 0)
    y = np.linspace(0, 255, height)[:, None, None].repeat(width, 1)
    return np.concatenate([x, y, np.zeros_like(x)], axis=2).round().astype(np.uint8)


class Coordinates(nn.Module):
    """Reads where it is from the ramp; `mirrored` reads x the wrong way round in every second crop."""

    mean, std, image_size, stride = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), SIDE, STRIDE

    def __init__(self, *, mirrored: bool = False) -> None:
        super().__init__()
        self.mirrored = mirrored

    def forward(self, x: torch.Tensor) -> Features:
        cells = nn.functional.avg_pool2d(x[:, :2], STRIDE)
        if self.mirrored:
            cells = torch.stack([cells[0], cells[1].flip(-1)])
        # On a sphere nearest by cosine is nearest by distance.
        dense = torch.cat([cells, (4 - cells.square().sum(1, keepdim=True)).sqrt()], 1)
        height, width = dense.shape[-2:]
        positions = grid_centers(height, width, *x.shape[-2:]).flatten(0, 1)
        return Features(dense.mean((2, 3)), dense.flatten(2).transpose(1, 2), positions, (height, width))


@pytest.mark.parametrize(("width", "height"), [(200, 200), (300, 200), (160, 260)])
def test_a_coordinate_encoder_is_right_everywhere(width, height):
    source = ArraySource(ramp(width, height)[None].repeat(2, 0))
    plain, flipped = match_photographs(Coordinates(), source, [0, 1], SIDE, 2)
    for found in (plain, flipped):
        assert len(found.hits) > 20
        assert found.hits.all()
    # The mirrored crop's matches run the other way.
    along = [np.corrcoef(found.start[:, 0], found.end[:, 0])[0, 1] for found in (plain, flipped)]
    assert along[0] > 0.9
    assert along[1] < -0.9


def test_a_mirrored_one_is_right_only_near_the_middle():
    source = ArraySource(ramp(200, 200)[None])
    (found,) = match_photographs(Coordinates(mirrored=True), source, [0], SIDE, 1)
    # Its answer is the truth mirrored in the second crop, to half a cell: 2·|x − middle| off.
    off = np.abs(2 * found.end[:, 0] - SIDE) / STRIDE
    assert found.hits.any()
    assert not found.hits.all()
    assert not found.hits[off > 1.6].any()
    assert found.hits[off < 0.4].all()


@pytest.mark.parametrize("flip", [False, True])
def test_hits_agree_with_the_task_correspond(flip):
    torch.manual_seed(0)
    dense = torch.randn(2, 16, 10, 10)
    cells = (
        grid_centers(10, 10, SIDE, SIDE).flatten(0, 1) - 3.5
    )  # as a network that looks up and left of its cells' middles
    a, b = crop_pair((300, 200), SIDE, flip=flip)
    start, end, hits = match(dense, cells, a, b)
    similar = nn.functional.cosine_similarity(dense[0].flatten(1).T[:, None], dense[1].flatten(1).T[None], dim=-1)
    errors, _ = match_errors(carry(a, b, cells), similar.argmax(1)[None], cells, torch.tensor([8.0, 8.0]))
    assert len(start) == len(end) == len(hits) == len(errors)
    assert torch.equal(hits, errors <= 1 + 1e-4)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("decoded", [1.0, 0.5])
def test_crops_show_what_their_geometry_says(flip, decoded):
    width, height = 300, 200
    image = Image.fromarray(ramp(width, height)).resize(
        (int(width * decoded), int(height * decoded)), Image.Resampling.BOX
    )
    for view in crop_pair((width, height), SIDE, flip=flip):
        crop = np.asarray(take(image, (width, height), view), dtype=float)
        home = view.to_source(grid_centers(SIDE, SIDE, SIDE, SIDE)[None])[0].numpy()
        expected = home / (width, height) * 255
        assert np.abs(crop[..., :2] - expected)[4:-4, 4:-4].max() < 3
        assert home[..., 0].min() >= 0
        assert home[..., 0].max() <= width
        assert home[..., 1].max() <= height


def test_lines_say_right_and_wrong():
    source = ArraySource(ramp(200, 200)[None])
    (found,) = match_photographs(Coordinates(mirrored=True), source, [0], SIDE, 1)
    lines = match_lines(found, side=2 * SIDE, gap=10, most=10_000)
    kinds = [kind for kind, _ in lines]
    assert kinds == ["miss"] * int((~found.hits).sum()) + ["hit"] * int(found.hits.sum())  # right ones on top
    drawn = {tuple(ends) for _, ends in lines}
    for (x1, y1), (x2, y2) in zip(found.start, found.end, strict=True):
        assert (2 * x1, 2 * y1, 2 * x2 + 2 * SIDE + 10, 2 * y2) in drawn
    assert 10 < len(match_lines(found, side=SIDE, gap=10)) <= 15
