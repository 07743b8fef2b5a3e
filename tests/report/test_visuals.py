from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from glocal.features import Features
from glocal.report.visuals import Photograph, falloff, neighbours_of, pca_maps, principal_colours


def test_falloff_is_the_singular_values_of_centred_features():
    torch.manual_seed(0)
    x = torch.randn(40, 6) @ torch.diag(torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.25])) + 100
    expected = np.linalg.svd((x - x.mean(0)).double().numpy(), compute_uv=False)
    np.testing.assert_allclose(falloff(x), expected / expected[0], rtol=1e-6)
    np.testing.assert_array_equal(falloff(torch.ones(5, 3)), [0.0])


def test_neighbours_leave_the_query_out_even_among_copies():
    x = torch.tensor([[1.0, 0], [1, 0], [0.9, 0.1], [0, 1], [-1, 0]])
    assert neighbours_of(x, [0, 1, 3], 2) == [[1, 2], [0, 2], [2, 0]] or neighbours_of(x, [0, 1], 2) == [[1, 2], [0, 2]]
    assert neighbours_of(x[:3], [2], 5) in ([[0, 1]], [[1, 0]])


def test_equal_features_get_equal_colours_in_different_photographs():
    torch.manual_seed(0)
    kinds = torch.randn(4, 9)
    of = torch.randint(0, 4, (3, 5, 5))
    colours = principal_colours(kinds[of].permute(0, 3, 1, 2).double()).permute(0, 2, 3, 1)
    assert colours.min() == 0
    assert colours.max() == 1
    for kind in range(4):
        assert colours[of == kind].std(0, correction=0).max() < 1e-9
    assert len({tuple(c.round(decimals=6).tolist()) for c in colours.flatten(0, 2)}) == 4


def test_colours_do_not_depend_on_the_signs_of_the_basis():
    torch.manual_seed(0)
    dense = torch.randn(2, 7, 6, 6).double()
    permuted = principal_colours(dense.flip(0)).flip(0)
    torch.testing.assert_close(principal_colours(dense), permuted)


@pytest.mark.parametrize("signs", [(1, 1, 1), (-1, -1, -1), (1, -1, 1)])
def test_a_colour_grows_with_the_feature_that_its_component_is_made_of(monkeypatch, signs):
    dense = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 8, 8)))
    tokens = torch.linalg.qr(dense.flatten(2)[0].T - dense.mean((0, 2, 3)))[0] * torch.tensor(
        [2.0, 1.0, 4.0]
    )  # no covariance
    eigh = torch.linalg.eigh

    def other_signs(x):  # as another LAPACK may give them
        values, vectors = eigh(x)
        return values, vectors * torch.tensor(signs)

    monkeypatch.setattr(torch.linalg, "eigh", other_signs)
    colours = principal_colours(tokens.T.reshape(1, 3, 8, 8)).flatten(2)[0]
    for channel, feature in enumerate((2, 0, 1)):  # red is the widest
        x = tokens[:, feature]
        low, high = x.quantile(0.02), x.quantile(0.98)
        torch.testing.assert_close(colours[channel], ((x - low) / (high - low)).clamp(0, 1))


def test_a_constant_map_is_grey():
    for value in (1.0, 0.0, 0.3):  # the mean of many .3 is not .3
        assert (principal_colours(torch.full((2, 5, 3, 3), value).double() * 1.1) == 0.5).all()


class Corners(torch.nn.Module):
    """An encoder whose cells look at the first pixel of their 8×8 patches, as a ResNet's do."""

    mean, std = (0.5, 0.5, 0.5), (0.25, 0.25, 0.25)

    def forward(self, x):
        maps = x[:, :, ::8, ::8]
        y, x = np.mgrid[: maps.shape[2], : maps.shape[3]]
        positions = torch.from_numpy(8 * np.stack([x, y], -1) + 0.5).float().flatten(0, 1)
        return Features(maps.mean((2, 3)), maps.flatten(2).transpose(1, 2), positions, maps.shape[2:])


def test_a_map_shows_each_cell_where_it_looks():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[:, 30:] = 255  # cells at 24.5 and 32.5 see it begin: in the middle, at 28.5
    pixels[1::2] //= 2  # rows that no cell looks at
    (shown,) = pca_maps(Corners(), [Photograph(Image.fromarray(pixels), "edge", None)], size=128)
    red = np.asarray(shown)[:, :, 0].astype(int)
    assert (red == red[0]).all()
    assert np.abs(np.diff(red[0])).nonzero()[0][[0, -1]].tolist() == [48, 64]  # from 24.5 to 32.5, twice enlarged
