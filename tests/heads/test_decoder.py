"""Decoders of codes, and the Gaussian that codes are drawn from."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from glocal.heads.decoder import Decoder, GaussianCodes


@pytest.mark.parametrize("size", [16, 24, 32, 48, 64])
def test_it_paints_images_of_the_size_asked_for_in_zero_to_one(size) -> None:
    images = Decoder(6, size)(torch.randn(2, 6))
    assert images.shape == (2, 3, size, size)
    assert images.min() >= 0
    assert images.max() <= 1


def test_latents_become_codes_of_the_fitted_mean_and_covariance() -> None:
    draw = np.random.default_rng(0)
    root, mean = torch.from_numpy(draw.standard_normal((5, 2))), torch.from_numpy(draw.standard_normal(5))
    covariance = root @ root.T  # of rank 2
    codes = GaussianCodes(5, 16).double()
    codes.fit(mean, covariance)
    torch.testing.assert_close(codes.factor @ codes.factor.T, covariance)
    codes.decode = torch.nn.Identity()
    z = torch.eye(5, dtype=torch.float64)
    torch.testing.assert_close(codes(z) - mean, codes.factor.T)
    torch.testing.assert_close(codes(torch.zeros(1, 5, dtype=torch.float64))[0], mean)
