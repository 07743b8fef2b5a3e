import numpy as np
import pytest
import torch
from torch import nn

from glocal.evaluation import EvalContext, find_task
from glocal.evaluation.correspond import CROP, carry, match_errors
from glocal.features import Features
from glocal.views import View, grid_centers

GEOMETRY = CROP.but(jitter=0.0, gray=0.0)


class Where(nn.Module):
    """Turns the place that a pixel's red and green name, `offset` into each 8×8 cell, into a feature of that place."""

    mean, std, image_size = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), 64

    def __init__(self, offset=4):
        super().__init__()
        self.offset = offset

    def forward(self, x):
        seen = torch.pi * 0.8 * x[:, :2, self.offset :: 8, self.offset :: 8]
        maps = torch.cat([seen.cos(), seen.sin()], 1)
        height, width = maps.shape[-2:]
        steps = self.offset + 0.5 + 8 * torch.arange(8)
        positions = torch.stack(torch.meshgrid(steps, steps, indexing="xy"), -1).flatten(0, 1)
        return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2), positions, (height, width))


class Noise(Where):
    """Features that have nothing to do with the place."""

    def forward(self, x):
        features = super().forward(x)
        tokens = torch.randn(features.tokens.shape, generator=torch.Generator().manual_seed(int(x.sum() * 1e3)))
        return Features(features.pooled, tokens, features.positions, features.grid)


def maps_of_places(count=12, width=120, height=90):
    """Images whose red is x and whose green is y."""
    y, x = np.mgrid[:height, :width]
    image = np.stack([255 * x / (width - 1), 255 * y / (height - 1), 0 * x], -1).astype(np.uint8)
    return np.repeat(image[None], count, 0)


def scores_of(encoder, made, **options):
    source = made.ArraySource(maps_of_places())
    return find_task("correspond")(EvalContext(encoder, source, source, 64, batch_size=5), **options)


def test_features_of_the_true_place_match_nearly_always_flips_included(made):
    scores = scores_of(Where(), made, crop=GEOMETRY)
    assert scores["within_1_cell"] > 0.99
    assert scores["within_1_cell_uniform"] > 0.99
    assert scores["median_error"] < 0.6
    assert scores["cells"] > 200


def test_flipped_grids_would_not_do(made, monkeypatch):
    import glocal.evaluation.correspond as file

    def blind(a, b, points):
        a, b = (View(v.pixels, v.affine.abs()) for v in (a, b))  # forgets the mirror
        return carry(a, b, points)

    monkeypatch.setattr(file, "carry", blind)
    assert scores_of(Where(), made, crop=GEOMETRY)["within_1_cell"] < 0.8


def test_where_cells_really_look_beats_the_uniform_grid(made):
    scores = scores_of(Where(offset=0), made, crop=GEOMETRY)
    assert scores["within_1_cell"] > 0.99
    assert scores["median_error"] < scores["median_error_uniform"] - 0.1
    assert scores["within_1_cell_uniform"] < scores["within_1_cell"]


def test_random_features_are_at_chance(made):
    scores = scores_of(Noise(), made)
    assert scores["within_1_cell"] == pytest.approx(scores["chance"], abs=0.03)
    assert 2.5 / 64 < scores["chance"] < 3.2 / 64  # a disc of one cell's radius holds pi cells, fewer at the border


def test_a_pure_function_of_the_seed(made):
    first, again = scores_of(Where(), made, images=6), scores_of(Where(), made, images=6)
    assert first == again
    other = made.ArraySource(maps_of_places())
    assert find_task("correspond")(EvalContext(Where(), other, other, 64, seed=1), images=6) != first


def test_carry_inverts_the_other_crops_map():
    a = View(torch.empty(1, 3, 8, 8), torch.tensor([[[2.0, 0.0, 10.0], [0.0, 3.0, 5.0]]]))
    b = View(torch.empty(1, 3, 8, 8), torch.tensor([[[-1.0, 0.0, 30.0], [0.0, 1.5, 2.0]]]))
    points = torch.tensor([[1.0, 2.0]])  # source (12, 11) -> b (18, 6)
    torch.testing.assert_close(carry(a, b, points), torch.tensor([[[18.0, 6.0]]]))


def test_match_errors_by_hand():
    cells = grid_centers(2, 2, 16.0, 16.0).flatten(0, 1)  # (4, 4), (12, 4), (4, 12), (12, 12)
    truth = torch.tensor([[[4.0, 4.0], [12.0, 12.0], [16.5, 4.0], [8.0, 4.0]]])
    errors, chance = match_errors(truth, torch.tensor([[0, 0, 1, 3]]), cells, torch.tensor([8.0, 8.0]))
    torch.testing.assert_close(errors, torch.tensor([0.0, 2**0.5, 1.25**0.5]))  # the third lies outside
    assert chance.tolist() == [0.75, 0.75, 0.5]
