"""Samples as a function of the seed; a generator of the very images is perfect, and one of noise is not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from glocal.data import ArraySource
from glocal.errors import UsageError
from glocal.evaluation import EvalContext
from glocal.evaluation.generation import generation, samples


class Made(nn.Module):
    """Images whose colours, in fours of pixels, are the latent's."""

    latent_shape = (3, 2, 2)

    def __init__(self, guidance=0.0):
        super().__init__()
        self.weight, self.guidance, self.seen = nn.Parameter(torch.ones(1)), guidance, []

    def forward(self, z, cluster=None):
        if cluster is not None:
            self.seen += cluster.tolist()
        return (0.5 + 0.2 * self.weight * z).repeat_interleave(16, 2).repeat_interleave(16, 3)


class Drawn(nn.Module):
    """Draws from a collection."""

    latent_shape = (1,)

    def __init__(self, images):
        super().__init__()
        self.register_buffer("images", torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255)

    def forward(self, z):
        normal = torch.distributions.Normal(0, 1)
        return self.images[(normal.cdf(z[:, 0]) * len(self.images)).long().clamp_max(len(self.images) - 1)]


def test_a_sample_depends_on_the_seed_and_its_place_alone() -> None:
    made = samples(Made(), 150, seed=3)
    assert made.shape == (150, 3, 32, 32)
    assert made.dtype == torch.uint8
    assert torch.equal(samples(Made(), 7, seed=3), made[:7])
    assert not torch.equal(samples(Made(), 7, seed=4), made[:7])
    assert made.float().mean() == pytest.approx(127.5, abs=3)


def test_clusters_are_as_frequent_as_in_training_or_the_one_asked_for() -> None:
    made = Made()
    made.frequencies = torch.tensor([30.0, 0.0, 10.0])
    samples(made, 1000)
    shares = np.bincount(made.seen, minlength=3) / 1000
    assert shares[1] == 0
    assert shares[0] == pytest.approx(0.75, abs=0.05)
    made.seen.clear()
    samples(made, 5, cluster=2)
    assert made.seen == [2] * 5
    with pytest.raises(UsageError, match="clusters 0 to 2"):
        samples(made, 5, cluster=3)
    with pytest.raises(UsageError, match="without clusters"):
        samples(Made(), 5, cluster=0)
    with pytest.raises(UsageError, match="guidance 5: the generator was trained without clusters"):
        samples(Made(5.0), 5)
    with pytest.raises(UsageError, match="guidance nan: give a number"):
        samples(Made(float("nan")), 5)


@pytest.mark.parametrize(("guidance", "broken", "said"), [(2.0, False, "lower the guidance"), (0.0, True, "weight")])
def test_what_is_not_finite_stops_with_a_diagnosis(guidance, broken, said) -> None:
    made = Made(guidance)
    made.frequencies = torch.tensor([1.0])
    if broken:
        nn.init.constant_(made.weight, torch.nan)
    else:
        made.register_forward_hook(lambda module, inputs, output: output * torch.inf)
    with pytest.raises(UsageError, match=said):
        samples(made, 5)


@pytest.fixture
def context(made):
    def build(generator, images):
        source = ArraySource(images)
        found = EvalContext(made.Cells().eval(), source, source, 32)
        found.generator = generator
        return found

    return build


def test_draws_of_the_images_are_like_them_and_noise_is_not(made, context) -> None:
    images, _ = made.coloured(120, 0, side=32)
    good = generation(context(Drawn(images), images), images=120)
    bad = generation(context(Made(), images), images=120)
    assert good["kid_low"] < 0.5 * good["kid_high"] + 0.1  # a narrow interval
    assert good["kid_low"] <= 0 <= good["kid_high"]
    assert bad["kid_low"] > good["kid_high"]
    assert bad["fid"] > 10 * good["fid"]
    assert good["precision"] == 1.0
    assert good["recall"] > 0.9
    assert bad["recall"] < 0.5
    assert good["images"] == 120


def test_what_makes_no_images_is_refused_and_so_are_options_that_it_lacks(made, context) -> None:
    images, _ = made.coloured(8, 0, side=32)
    with pytest.raises(UsageError, match="makes no images"):
        generation(context(None, images))
    with pytest.raises(UsageError, match="steps is for flows"):
        generation(context(Drawn(images), images), images=8, steps=4)
    with pytest.raises(UsageError, match="at least 4"):
        generation(context(Drawn(images), images), images=3)
    with pytest.raises(UsageError, match="no encoder at gone"):
        generation(context(Drawn(images), images), images=8, features="gone")
