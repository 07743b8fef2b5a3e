"""The graphical model on heat-maps: its convolutions, its equation, and what a shoulder decides."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from glocal.heads.spatial_model import SIDE, SpatialModel, convolve


def drawn(*shape, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, shape))


def by_hand(kernels, maps):
    """The same by direct convolution: torch's is a correlation, so the kernels are turned."""
    height, width = maps.shape[-2:]
    padded = (height - 1, width - 1)
    rows = [[F.conv2d(maps[:, v, None], kernels[a, v].flip(0, 1)[None, None], padding=padded)[:, 0]
             for v in range(maps.shape[1])] for a in range(len(kernels))]  # fmt: skip
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def test_fft_is_direct_convolution_with_its_gradient():
    kernels, maps = drawn(3, 2, 9, 13).requires_grad_(), drawn(4, 2, 5, 7, seed=1).requires_grad_()
    weight = drawn(4, 3, 2, 5, 7, seed=2)
    found = []
    for function in (convolve, by_hand):
        out = function(kernels, maps)
        found.append((out, *torch.autograd.grad((out * weight).sum(), (kernels, maps))))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


def test_in_float32_its_error_is_small_beside_the_norms():
    draw = np.random.default_rng(0)
    kernels, maps = (torch.from_numpy(draw.normal(size=shape)) for shape in ((3, 2, 31, 31), (4, 2, 16, 16)))
    away = (convolve(kernels.float(), maps.float()).double() - by_hand(kernels, maps)).abs().amax((-2, -1))
    assert (away <= 1e-6 * kernels.flatten(2).norm(dim=2) * maps.flatten(2).norm(dim=2)[:, None]).all()


def test_a_displacement_moves_what_is_likely():
    """A kernel with one weight, two columns to the right and one row up, moves the map so."""
    kernel, heat = torch.zeros(1, 1, 9, 9), torch.zeros(1, 1, 5, 5)
    kernel[0, 0, 4 - 1, 4 + 2] = 1
    heat[0, 0, 3, 1] = 1
    out = convolve(kernel, heat)[0, 0, 0]
    assert tuple(np.unravel_index(int(out.argmax()), (5, 5))) == (2, 3)


def test_it_is_the_papers_equation():
    model = SpatialModel(3).double()
    model.kernel.data, model.background.data = drawn(3, 3, 31, 31), drawn(3, 3, seed=1)
    heat = drawn(2, 3, SIDE, SIDE, seed=2)
    softplus = nn.Softplus()
    messages = by_hand(softplus(model.kernel), heat.relu())
    expected = torch.ones(2, 3, SIDE, SIDE, dtype=torch.float64)
    for v in range(3):
        expected *= messages[:, :, v] + softplus(model.background[:, v])[None, :, None, None]
    torch.testing.assert_close(model(heat).exp(), expected)


def test_of_two_peaks_the_shoulder_decides():
    """The wrist's detector sees two wrists, the wrong one clearer; training wrists lie to the right of shoulders."""
    draw = np.random.default_rng(0)
    shoulder = draw.uniform(0.2, 0.5, (50, 2))
    wrist = shoulder + np.array([0.25, 0.0]) + draw.normal(0, 0.02, (50, 2))
    model = SpatialModel(2)
    places = torch.from_numpy(np.stack([shoulder, wrist], 1)).float()
    model.begin(places, torch.ones(50, 2, dtype=torch.bool))
    heat = torch.zeros(1, 2, SIDE, SIDE)
    heat[0, 0, 8, 4] = 1  # the shoulder
    heat[0, 1, 8, 8], heat[0, 1, 3, 1] = 0.4, 0.6  # a quarter of the side to its right, and elsewhere
    assert heat[0, 1].argmax() == 3 * SIDE + 1
    assert model(heat)[0, 1].argmax() == 8 * SIDE + 8
    heat[0, 0] = 0
    heat[0, 0, 3, 13] = 1  # a shoulder that fits neither
    assert model(heat)[0, 1].argmax() == 3 * SIDE + 1


def test_kernels_are_the_histograms_of_displacements():
    """Joint 1 is always 4 columns to the right of joint 0; joint 2 is never known: it says as much of every place."""
    places = torch.rand(20, 3, 2, generator=torch.Generator().manual_seed(0)) / 2
    places[:, 1] = places[:, 0] + torch.tensor([4 / SIDE, 0])
    known = torch.tensor([True, True, False]).expand(20, 3)
    model = SpatialModel(3)
    model.begin(places, known)
    kernel = F.softplus(model.kernel.detach())
    middle = SIDE - 1
    for a, v, x in ((1, 0, 4), (0, 1, -4), (0, 0, 0)):
        top = np.unravel_index(int(kernel[a, v].argmax()), (31, 31))
        assert top == (middle, middle + x)
    assert float(kernel[0, 2].std()) < 1e-6 < float(kernel[0, 1].std())


def test_other_maps_get_the_kernels_in_their_size():
    model = SpatialModel(2)
    places = torch.tensor([[[0.25, 0.5], [0.5, 0.5]]])
    model.begin(places, torch.ones(1, 2, dtype=torch.bool))
    heat = torch.zeros(1, 2, 32, 24)
    heat[0, 0, 16, 6] = 1
    top = np.unravel_index(int(model(heat)[0, 1].argmax()), (32, 24))
    assert abs(top[0] - 16) <= 1
    assert abs(top[1] - 12) <= 1
